"""Calling libraries that build and run graphs: what they print, what they raise and what they keep."""

from __future__ import annotations

from typing import Any

_MAX = 300  # characters: names out of a graph may be in it


def first_line(error: Exception) -> str:
    """The first line of an exception's message that says something, or the name of its type."""
    lines = (line.strip() for line in str(error).splitlines())
    found = (line for line in lines if line and not line.startswith(("Exception from", "Check '")))
    return next(found, type(error).__name__)[:_MAX]


def forget_trace(program: Any) -> None:
    """Frees what torch remembers of each operator of an exported program, 13,000 objects, for a trace that is over.

    The memory of shapes that it belongs to is held by cycles through C++, which no collector sees.
    """
    for node in program.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None and mode.shape_env is not None:
            mode.shape_env.fake_tensor_cache.clear()
