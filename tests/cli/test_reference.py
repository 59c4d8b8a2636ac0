"""The table of the reference's options: the flags that it names exist, and the page in docs shows it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from cyclegan_fast import __main__ as program
from cyclegan_fast.cli.flags import flags_of_function, flags_of_settings
from cyclegan_fast.cli.parse import Grammar
from cyclegan_fast.cli.reference import (
    OTHER_COMMANDS,
    OTHER_WORDS,
    REFERENCE_OPTIONS,
    first_flag,
    hint_for,
    reference_table,
)
from cyclegan_fast.config import TrainConfig
from cyclegan_fast.errors import UserError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from_the_reference.md"


def grammar(command: str) -> Grammar:
    """What the command line of a command may hold; of dataset: that of its scenes."""
    function = getattr(importlib.import_module(f"cyclegan_fast.{command}"), command.replace("dataset", "scenes"))
    settings = flags_of_settings(TrainConfig) if command == "train" else []
    return Grammar(prog=command, flags=settings + flags_of_function(function))


def spellings(command: str) -> set[str]:
    return {flag.spelling for flag in grammar(command).flags}


@pytest.mark.parametrize("option", REFERENCE_OPTIONS)
def test_every_flag_that_it_names_exists(option: str) -> None:
    text = REFERENCE_OPTIONS[option]
    named = re.findall(r"(translate )?(--[\w-]+)", text)
    assert named or text.startswith("not needed: ")
    for command, flag in named:
        grammar(command.strip() or "train").find(flag)
    try:  # what is a flag here, too, is the flag that the table names
        flag, _ = grammar("train").find(f"--{option}")
    except UserError as error:
        assert hint_for(option, spellings("train")) in str(error)
    else:
        assert first_flag(text) == f"--{option}".replace("_", "-") or flag.type is bool


@pytest.mark.parametrize("word", OTHER_WORDS)
def test_words_of_other_packages_lead_to_flags(word: str) -> None:
    commands = [spellings(name) for name in program.COMMANDS]
    for text in OTHER_WORDS[word].split(", "):
        assert any(first_flag(text) in flags for flags in commands), text
    assert any(hint_for(word, flags) == f": here it is {text}" for flags in commands)


def test_every_script_of_other_packages_leads_to_a_command() -> None:
    assert set(OTHER_COMMANDS.values()) <= set(program.COMMANDS)


def test_the_page_shows_the_table() -> None:
    page = PAGE.read_text("utf-8")
    assert page[page.index("| The reference |") :].strip() == reference_table(), (
        "replace the table: python -c 'from cyclegan_fast.cli.reference import reference_table as t; print(t())'"
    )
