"""The --help page of a command, as wide as the terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from cyclegan_fast.cli.flags import REQUIRED, Flag
from cyclegan_fast.cli.parse import Grammar
from cyclegan_fast.cli.program import as_typed

MAX_WIDTH = 120
INDENT = 26  # columns before the text of a flag


def help_page(grammar: Grammar, description: str) -> str:
    """Returns the --help page.

    Args:
        grammar: What the command line may hold.
        description: What the command does, in paragraphs.
    """
    width = _width()
    parts = [_usage(grammar), *_paragraphs(description, width)]
    for heading, flags in _groups(grammar.flags, grammar.first).items():
        parts.append("\n".join([f"{heading}:", *(_entry(flag, width) for flag in flags)]))
    return "\n\n".join(parts)


def list_page(prog: str, entries: dict[str, str], examples: Sequence[str]) -> str:
    """Returns the page of a program with several commands: their names, what they do, and command lines."""
    indent = max(map(len, entries)) + 4
    lines = [
        _fill(text, _width(), first=f"  {name}".ljust(indent), rest=" " * indent) for name, text in entries.items()
    ]
    shown = ["For example:", *(f"    {as_typed(example)}" for example in examples)]
    end = f"{prog} <command> --help shows the flags of one."
    return "\n".join([f"usage: {prog} <command> [flags]", "", *lines, "", *shown, "", end])


def _width() -> int:
    return min(shutil.get_terminal_size().columns, MAX_WIDTH) - 1


def _usage(grammar: Grammar) -> str:
    needed = [flag for flag in grammar.flags if flag.default is REQUIRED or flag.is_positional]
    words = [_invocation(flag) if flag.default is REQUIRED else f"[{flag.metavar}]" for flag in needed]
    return " ".join(["usage:", grammar.prog, *words, "[flags]"])


def _paragraphs(text: str, width: int) -> Iterator[str]:
    """Fills the paragraphs of a docstring; command lines stay whole, so that they can be copied."""
    for paragraph in text.split("\n\n"):
        is_example = re.search(r"^( {4}|Example: )", paragraph, re.MULTILINE)
        yield as_typed(paragraph) if is_example else _fill(" ".join(paragraph.split()), width)


def _groups(flags: Sequence[Flag], first: Sequence[str]) -> dict[str, list[Flag]]:
    """Sorts flags by heading: those of `first`, in that order, what is required, and the groups as they come."""
    by_name = {flag.name: flag for flag in flags}
    groups = {"Most used": [by_name[name] for name in first]} if first else {}
    for flag in flags:
        if flag.name not in first:
            heading = flag.group or ("Required" if flag.default is REQUIRED else "Other flags" if first else "Flags")
            groups.setdefault(heading, []).append(flag)
    return groups


def _entry(flag: Flag, width: int) -> str:
    """Returns a flag with its description: beside it, or below it where its name is long."""
    name, text = f"  {_invocation(flag)}", f"{flag.help} {_default(flag)}".strip()
    blank = " " * INDENT
    if len(name) > INDENT - 2:
        return f"{name}\n{_fill(text, width, first=blank, rest=blank)}"
    return _fill(text, width, first=name.ljust(INDENT), rest=blank)


def _invocation(flag: Flag) -> str:
    if flag.is_positional:
        return flag.metavar
    if flag.type is bool:
        return f"--[no-]{flag.spelling[2:]}" if flag.default else flag.spelling
    return f"{flag.spelling} {flag.metavar}"


def _default(flag: Flag) -> str:
    """Describes the value without the flag; where the flag's text does, nothing is to be added."""
    if flag.default is REQUIRED:
        return "(required)"
    if flag.type is bool:
        return "(default: on)" if flag.default else "(default: off)"
    if flag.default in (None, ()):
        return "" if "default" in flag.help else "(default: none)"
    alone = f"; alone: {flag.alone}" if flag.alone else ""
    return f"(default: {_readable(flag.default)}{alone})"


def _readable(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _fill(text: str, width: int, *, first: str = "", rest: str = "") -> str:
    """Fills lines, the first one and all others after an indent, between words only: no flag breaks at its hyphens."""
    wrapper = textwrap.TextWrapper(width, first, rest, break_on_hyphens=False, break_long_words=False)
    return wrapper.fill(as_typed(text))
