"""Calling libraries that build and run graphs: what they print and what they raise."""

from __future__ import annotations

_MAX = 300  # characters: names out of a graph may be in it


def first_line(error: Exception) -> str:
    """The first line of an exception's message that says something, or the name of its type."""
    lines = (line.strip() for line in str(error).splitlines())
    found = (line for line in lines if line and not line.startswith(("Exception from", "Check '")))
    return next(found, type(error).__name__)[:_MAX]
