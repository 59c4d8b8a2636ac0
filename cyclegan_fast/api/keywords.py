"""The settings of a run as flat keywords, which are named and checked as the command's flags are."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from cyclegan_fast.cli.reference import hint_for
from cyclegan_fast.config import ALONE, TrainConfig, from_dict
from cyclegan_fast.errors import UserError, did_you_mean
from cyclegan_fast.models import with_given

GROUPS: dict[str, Any] = typing.get_type_hints(TrainConfig)
TYPES: dict[str, Any] = {name: kind for group in GROUPS.values() for name, kind in typing.get_type_hints(group).items()}
_GROUP_OF = {field.name: name for name, group in GROUPS.items() for field in dataclasses.fields(group)}
_FLAG = re.compile(r"--([A-Za-z][\w-]*)(?:(?P<separator>[ =])(?P<value>\w+(?:[.:]\d+)?))?")

_NAMES = re.compile(r"cpu|cuda:\d+|resnet_\d+blocks|unet_\d+")  # values of settings without a list of choices


def config_from_keywords(keywords: Mapping[str, Any], base: TrainConfig | None = None) -> TrainConfig:
    """Builds the settings of a run from flat keywords; those that are left out are those of `base`, or the defaults.

    Raises:
        UserError: An unknown keyword (the nearest known one is named), a value of the wrong type, or a number out of
            range.
    """
    values: dict[str, Any] = {}
    for name, value in keywords.items():
        if name not in _GROUP_OF:
            hint = hint_for(name, [f"--{known.replace('_', '-')}" for known in _GROUP_OF])
            raise UserError(f"fit: unknown setting '{name}'{in_keywords(hint) or did_you_mean(name, _GROUP_OF)}")
        group = GROUPS[_GROUP_OF[name]]
        values[name] = getattr(from_dict(group, {name: _plain(name, value)}, where="fit"), name)
    base = TrainConfig() if base is None else base
    if not isinstance(base, TrainConfig):
        raise UserError(f"fit: config takes a TrainConfig, such as Run('runs/a').config, got {base!r}")
    return with_given(base, values)


def _plain(name: str, value: Any) -> Any:
    """The value as YAML would hold it: no numpy scalars, no ~ in a path, and of a setting with choices no True."""
    if value is True and name in ALONE:
        return ALONE[name]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    if Path in _options(TYPES[name]) and isinstance(value, str | os.PathLike):
        return Path(value).expanduser()
    if TYPES[name] == tuple[str, ...] | None and value is not None:
        items = [value] if isinstance(value, str | os.PathLike) else list(value)
        return [str(Path(item).expanduser()) if isinstance(item, str | os.PathLike) else item for item in items]
    return value


@contextlib.contextmanager
def errors_in_keywords() -> Iterator[None]:
    """Lets the `UserError` of a block name keywords where it names flags."""
    try:
        yield
    except UserError as error:
        error.args = (in_keywords(str(error)), *error.args[1:])
        raise


def in_keywords(text: str) -> str:
    """Turns flags in a text into keywords: ``--amp bf16`` is ``amp='bf16'``, ``--no-flip`` is ``flip=False``.

    Flags with values that follow each other become arguments to paste: ``ngf=16, ndf=32``.
    """
    return _FLAG.sub(_keyword, text)


def _keyword(flag: re.Match[str]) -> str:
    keyword = _without_comma(flag)
    followed = "=" in keyword and flag.string.startswith(" --", flag.end())
    return f"{keyword}," if followed else keyword


def _without_comma(flag: re.Match[str]) -> str:
    name, value = flag[1].replace("-", "_"), flag["value"]
    rest = "" if value is None else flag["separator"] + value
    if name.removeprefix("no_") not in TYPES:
        return flag[0]
    if TYPES[name.removeprefix("no_")] is bool:
        return f"{name.removeprefix('no_')}={not name.startswith('no_')}{rest}"
    options = _options(TYPES[name])
    if value in options and set(options) == {"off", ALONE.get(name)}:  # no other choice than on or off
        return f"{name}={value != 'off'}"
    if value is not None and (value in options or _NAMES.fullmatch(value)):
        return f"{name}={value!r}"
    return f"{name}={value}" if value is not None and re.fullmatch(r"[\d.]+|[A-Z]+", value) else name + rest


def _options(kind: Any) -> tuple[Any, ...]:
    """The members of a union or the choices of a Literal; of any other type, itself."""
    is_one_of = typing.get_origin(kind) is Literal or type(None) in typing.get_args(kind)
    return typing.get_args(kind) if is_one_of else (kind,)
