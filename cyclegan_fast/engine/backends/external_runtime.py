"""Calling libraries that build and run graphs: what they print and what they raise."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def suppressed_output(*loggers: str) -> Iterator[None]:
    """Suppresses Python warnings and what goes to these loggers ("" is the root)."""
    levels = {log: log.level for log in map(logging.getLogger, loggers)}
    for log in levels:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)


def first_line(error: Exception) -> str:
    """The first line of an exception's message that says something, or the name of its type."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(
        (line for line in lines if line and not line.startswith(("Exception from", "Check '"))), type(error).__name__
    )
