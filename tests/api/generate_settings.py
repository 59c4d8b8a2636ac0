"""Writes cyclegan_fast/api/settings.py, the keywords of `fit`, from config.py.

python -m tests.api.generate_settings > new.py && mv new.py cyclegan_fast/api/settings.py
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

from cyclegan_fast import config
from cyclegan_fast.api.keywords import ALONE, in_keywords

HEAD = '''"""The keywords of `fit` and their types, written by tests/api/generate_settings.py from config.py.

Type checkers and editors read them (PEP 692); nothing here has an effect when a program runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Literal, TypedDict

from cyclegan_fast.config import {aliases}

__all__ = ["FitSettings"]


class FitSettings(TypedDict, total=False):
    """Every setting of a run, by the name of its flag."""

'''
PATH = "str | PathLike[str]"
WIDER = {"Path": PATH, "tuple[str, ...]": f"{PATH} | Sequence[{PATH}]"}  # what `fit` takes beside what it stores


def main() -> None:
    print(settings_source(), end="")


def settings_source() -> str:
    """Returns the source of the module."""
    module = ast.parse(inspect.getsource(config))
    groups = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    settings = [setting for name in group_names(groups["TrainConfig"]) for setting in read_settings(groups[name])]
    text = "".join(f'    {name}: {keyword_type(name, kind)}\n    """{doc}"""\n' for name, kind, doc in settings)
    aliases = [node.targets[0].id for node in module.body if is_alias(node)]  # type: ignore[attr-defined]
    return HEAD.format(aliases=", ".join(name for name in sorted(aliases) if re.search(rf"\b{name}\b", text))) + text


def is_alias(node: ast.stmt) -> bool:
    """Whether a statement names a Literal."""
    return isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal")


def group_names(train_config: ast.ClassDef) -> list[str]:
    return [ast.unparse(node.annotation) for node in train_config.body if isinstance(node, ast.AnnAssign)]


def read_settings(group: ast.ClassDef) -> list[tuple[str, str, str]]:
    """Returns name, type and description of each field of a class."""
    return [
        (ast.unparse(field.target), source(field.annotation), description(field, doc))
        for field, doc in zip(group.body, group.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
    ]


def source(annotation: ast.expr) -> str:
    return ast.unparse(annotation).replace("'", '"')


def description(field: ast.AnnAssign, doc: ast.stmt) -> str:
    """The field's description; what it says of flags, it says of keywords."""
    assert isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
    text, name = in_keywords(doc.value.value), ast.unparse(field.target)
    text += f" True means {ALONE[name]}." if name in ALONE else ""
    return textwrap.fill(text, 110, subsequent_indent="    ", break_on_hyphens=False)


def keyword_type(name: str, kind: str) -> str:
    for stored, taken in WIDER.items():
        kind = kind.replace(stored, taken)
    return f"bool | {kind}" if name in ALONE else kind


if __name__ == "__main__":
    main()
