"""Calling libraries that build and run graphs: what they print and what they raise."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """The first line of an exception's message that says something, or the name of its type."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(
        (line for line in lines if line and not line.startswith(("Exception from", "Check '"))), type(error).__name__
    )
