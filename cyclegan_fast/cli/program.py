"""What the user typed to start a command: messages and --help name the program as it was called."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPT = "cyclegan-fast"  # as pyproject.toml installs it
MODULE = "python -m cyclegan_fast"


def typed_root() -> str:
    """Returns ``cyclegan-fast``, ``python -m cyclegan_fast``, or the latter with the dot of ``cyclegan_fast.train``."""
    if Path(sys.argv[0]).stem == SCRIPT:
        return SCRIPT
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return MODULE if spec is not None and spec.name == "cyclegan_fast.__main__" else f"{MODULE}."


def program(verb: str) -> str:
    """Returns how a command is started, from its name with underscores."""
    root = typed_root()
    return f"{root}{verb}" if root.endswith(".") else f"{root} {verb.replace('_', '-')}"


def program_of(function: Callable[..., Any]) -> str:
    """Returns how the command is started whose module holds `function`."""
    module = function.__module__
    if module == "__main__":
        module = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    return program(module.removeprefix("cyclegan_fast.").partition(".")[0])


def as_typed(text: str) -> str:
    """Writes the commands in a text as the user would type them."""
    return re.sub(rf"{re.escape(MODULE)}\.(\w+)", lambda found: program(found[1]), text)
