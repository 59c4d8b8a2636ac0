"""Worker processes that do not run the user's program again."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator


@contextlib.contextmanager
def main_left_alone() -> Iterator[None]:
    """Starts processes in this block that do not import the program's main module.

    A process that is spawned imports it first, and so runs a script from its top, unless everything in the script
    stands below ``if __name__ == "__main__"``. Our workers need nothing of it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")  # of no file
    try:
        yield
    finally:
        sys.modules["__main__"] = main
