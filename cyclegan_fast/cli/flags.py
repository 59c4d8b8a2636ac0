"""The flags of a command, read from the parameters of a function or the fields of dataclasses of settings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cyclegan_fast.errors import UserError

REQUIRED = inspect.Parameter.empty
MANY = 2**31

_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
_EXPECTED = {int: "a whole number", float: "a number", str: "a text", Path: "a path"}


class Alone(NamedTuple):
    """Lets a flag stand without a value: ``Annotated[str | None, Alone("auto")]`` is the type of such a parameter."""

    value: str
    """The value then."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag of a command, or one argument without a name before it.

    Its type is bool, int, float, str, Path, a Literal of strings, or a tuple of one of them.
    """

    name: str  # of the parameter or field: batch_size for --batch-size
    type: Any
    default: Any = REQUIRED
    help: str = ""
    group: str = ""
    alone: str | None = None  # the value of the flag where no value follows it
    may_be_none: bool = False
    is_positional: bool = False

    @property
    def spelling(self) -> str:
        """How --help and errors name it."""
        return self.name.upper() if self.is_positional else f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str:
        """What stands for its values in --help."""
        if self.is_positional:
            return self.name.upper() + " ..." * (self.max_values == MANY)
        if typing.get_origin(self.type) is tuple:
            first = _metavar(typing.get_args(self.type)[0])
            return f"{first} ..." if self.max_values == MANY else " ".join([first] * self.max_values)
        return f"[{_metavar(self.type)}]" if self.alone else _metavar(self.type)

    @property
    def max_values(self) -> int:
        """How many words may follow it."""
        if typing.get_origin(self.type) is not tuple:
            return 0 if self.type is bool else 1
        kinds = typing.get_args(self.type)
        return MANY if kinds[-1] is Ellipsis else len(kinds)

    @property
    def min_values(self) -> int:
        """How many words must follow it."""
        if self.alone:
            return 0
        return 1 if self.max_values == MANY else self.max_values

    @property
    def expected(self) -> str:
        """What its values are, for errors."""
        if typing.get_origin(self.type) is not tuple:
            return _expected(self.type)
        return "at least one value" if self.max_values == MANY else f"{self.max_values} values"

    def convert(self, words: Sequence[str]) -> Any:
        """Turns the words behind the flag into its value.

        Raises:
            UserError: There are too few of them, or one is of another type.
        """
        if len(words) < self.min_values:
            raise UserError(f"{self.spelling} needs {self.expected}")
        if not words:
            return self.alone
        if self.may_be_none and words[0].lower() == "none":
            return None
        if typing.get_origin(self.type) is tuple:
            return tuple(self._convert_word(word, typing.get_args(self.type)[0]) for word in words)
        return self._convert_word(words[0], self.type)

    @property
    def _switches(self) -> dict[str, Any]:
        """What words mean beside the choices of a flag that may stand alone: --resume on, --amp false."""
        return {"on": self.alone, "true": self.alone, "false": "off"}

    def _convert_word(self, word: str, kind: Any) -> Any:
        try:
            if typing.get_origin(kind) is Literal:
                choices = {choice: choice for choice in typing.get_args(kind)}
                return choices[word] if word in choices or not self.alone else self._switches[word.lower()]
            if kind is Path and not word:
                raise ValueError
            return kind(word)
        except (ValueError, KeyError) as error:
            raise UserError(f"{self.spelling} must be {_expected(kind)}, got '{word}'") from error


def _metavar(kind: Any) -> str:
    return "|".join(typing.get_args(kind)) if typing.get_origin(kind) is Literal else _METAVARS[kind]


def _expected(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        *most, last = typing.get_args(kind)
        return f"{', '.join(most)} or {last}"
    return _EXPECTED[kind]


def flags_of_function(function: Callable[..., Any]) -> list[Flag]:
    """Reads the flags of a function: its parameters, described by the part ``Args:`` of its docstring.

    What stands before ``/`` in the signature needs no flag before it.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    texts = _documented_arguments(inspect.getdoc(function) or "")
    return [
        _flag(
            parameter.name,
            hints[parameter.name],
            default=parameter.default,
            help=texts.get(parameter.name, ""),
            is_positional=parameter.kind is inspect.Parameter.POSITIONAL_ONLY,
        )
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def flags_of_settings(cls: type, group: str = "") -> list[Flag]:
    """Reads the flags of a dataclass: its fields, and those of the dataclasses in it, described by their docstrings.

    Each inner dataclass is a group, whose heading is the first line of its docstring.
    """
    hints, texts, flags = typing.get_type_hints(cls), _documented_fields(cls), []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            flags += flags_of_settings(typing.cast(type, hint), _first_line(hint))
        else:
            default, alone = field.default, field.metadata.get("alone")
            flags.append(
                _flag(field.name, hint, default=default, help=texts.get(field.name, ""), group=group, alone=alone)
            )
    return flags


def _flag(name: str, hint: Any, **options: Any) -> Flag:
    if typing.get_origin(hint) is typing.Annotated:
        hint, (options["alone"],) = typing.get_args(hint)[0], typing.get_args(hint)[1]
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return Flag(name=name, type=kinds[0], may_be_none=types.NoneType in kinds, **options)


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0].rstrip(".")


def _documented_arguments(docstring: str) -> dict[str, str]:
    """Reads the part ``Args:`` of a Google docstring: descriptions by name."""
    _, _, section = docstring.partition("\nArgs:\n")
    section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
    items = re.split(r"^ {4}(\w+): ", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(items[::2], items[1::2], strict=True)}


def _documented_fields(cls: type) -> dict[str, str]:
    """Reads the strings below the fields of a class: descriptions by name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    return dict(_strings_below_fields(body.body))


def _strings_below_fields(statements: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, below in itertools.pairwise(statements):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            yield field.target.id, " ".join(str(below.value.value).split())
