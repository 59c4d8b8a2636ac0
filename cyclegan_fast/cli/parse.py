"""From the words of a command line to values, or to one sentence that names the word at fault and what is right."""

from __future__ import annotations

import difflib
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyclegan_fast.cli.flags import MANY, REQUIRED, Flag
from cyclegan_fast.cli.reference import OTHER_COMMANDS, hint_for
from cyclegan_fast.errors import UserError, did_you_mean

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """What the command line of a command may hold."""

    prog: str  # what the user typed to start it
    flags: Sequence[Flag]
    first: Sequence[str] = ()  # names of the flags that matter most, which --help shows before all others
    aliases: Mapping[str, str] = field(default_factory=dict)  # --alias: --flag
    former_names: Mapping[str, str] = field(default_factory=dict)  # the same, whose use is a warning in the log
    repeated: Sequence[str] = ()  # names of flags that may come again: their values add up

    def find(self, spelling: str) -> tuple[Flag, bool]:
        """Returns the flag of that spelling, and whether it is a ``--no-`` form.

        Raises:
            UserError: There is none; the nearest one is named, or where the option of another package went.
        """
        dashed = spelling.replace("_", "-")
        if dashed in self.former_names:
            log.warning("%s is now %s; the old name goes soon", spelling, self.former_names[dashed])
        dashed = {**self.aliases, **self.former_names}.get(dashed, dashed)
        by_name = {f"--{flag.name.replace('_', '-')}": flag for flag in self.flags}
        if dashed in by_name:
            return by_name[dashed], False
        negated = {f"--no-{name[2:]}": flag for name, flag in by_name.items() if flag.type is bool}
        if dashed in negated:
            return negated[dashed], True
        raise UserError(f"unknown flag {spelling}{_hint(dashed, [*by_name, *negated])} ({self._see_help})")

    def parse(self, words: Sequence[str]) -> dict[str, Any]:
        """Returns the values that a command line gives, by the names of their flags; of a repeated flag the last.

        Raises:
            UserError: An unknown flag, a wrong or missing value, a word too many, or a flag that is missing.
        """
        given: dict[str, Any] = {}
        rest = deque(words)
        positional = deque(flag for flag in self.flags if flag.is_positional)
        while rest:
            word = rest.popleft()
            if _is_flag(word):
                flag, value = self._read_flag(word, rest)
                given[flag.name] = given.get(flag.name, ()) + value if flag.name in self.repeated else value
            elif positional:
                flag = positional[0] if positional[0].max_values == MANY else positional.popleft()
                earlier = given.get(flag.name, ())  # of one that takes all words that are left
                given[flag.name] = earlier + flag.convert([word]) if flag.max_values == MANY else flag.convert([word])
            else:
                raise UserError(f"'{word}' has no flag before it, such as {self._example} {word} ({self._see_help})")
        self._refuse_missing(given)
        return given

    def _read_flag(self, word: str, rest: deque[str]) -> tuple[Flag, Any]:
        """Reads a flag and takes the words of its value from the `rest` of the line."""
        spelling, has_value, value = word.partition("=")
        flag, negated = self.find(spelling)
        if flag.type is bool:
            if has_value:
                raise UserError(f"{spelling} takes no value: it is --{flag.name} or --no-{flag.name}".replace("_", "-"))
            return flag, not negated
        values = [value] if has_value else []
        while not has_value and rest and len(values) < flag.max_values and not _is_flag(rest[0]):
            values.append(rest.popleft())
        return flag, flag.convert(values)

    def _refuse_missing(self, given: Mapping[str, Any]) -> None:
        missing = [flag.spelling for flag in self.flags if flag.default is REQUIRED and flag.name not in given]
        if missing:
            *most, last = missing
            names = f"{', '.join(most)} and {last} are" if most else f"{last} is"
            raise UserError(f"{names} missing ({self.prog} --help shows an example)")

    @property
    def _example(self) -> str:
        """The flag with a value that --help shows first."""
        order = {name: place for place, name in enumerate(self.first)}
        named = [flag for flag in self.flags if flag.type is not bool]
        return min(named, key=lambda flag: order.get(flag.name, len(order))).spelling

    @property
    def _see_help(self) -> str:
        return f"{self.prog} --help lists all"


def choose(words: Sequence[str], commands: Sequence[str], prog: str) -> str:
    """Returns the command that the first of the `words` names, with dashes or underscores.

    Raises:
        UserError: There is none of that name; the nearest one is named.
    """
    see_help = f"({prog} --help lists all)"
    name = words[0].replace("-", "_") if words else ""
    if name in commands:
        return name
    if not words or _is_flag(words[0]):
        raise UserError(f"a command is missing {see_help}")
    hint = OTHER_COMMANDS.get(name, "")
    hint = f", did you mean '{hint}'?" if hint in commands else did_you_mean(name, commands)
    raise UserError(f"unknown command '{words[0]}'{hint} {see_help}")


def _hint(option: str, flags: Sequence[str]) -> str:
    """Returns where an option of another package went, or else the nearest flag; empty if there is none."""
    names = {flag.lstrip("-").lower(): flag for flag in flags}
    near = difflib.get_close_matches(option.lstrip("-").lower(), names, n=1)
    return hint_for(option, flags) or (f", did you mean {names[near[0]]}?" if near else "")


def _is_flag(word: str) -> bool:
    """Returns whether a word is a flag; negative numbers and a lone dash are values."""
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False
