"""Worker processes that do not run the user's program again, and do not outlive it; and what torchrun starts."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import types
from collections.abc import Iterator


def started_by_torchrun() -> bool:
    """Returns whether this process is one of those that torchrun has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def restarted_by_torchrun() -> bool:
    """Returns whether this process takes the place of one that has failed, as with --max-restarts."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


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


def end_with_parent() -> None:
    """Lets a worker process end within a second of the process that started it, which may have been killed.

    A worker of a pool waits for work otherwise, for ever: it holds the other end of the pipe itself.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if sys.platform != "win32":  # where the parent's identifier stays
        threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
