"""Dealing with the libraries that build and run graphs: their chatter, their errors, their graphs."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from cyclegan_fast.engine.engine import Shapes
from cyclegan_fast.errors import UserError

_MANY = 2**20  # images of a batch, where a graph leaves their number free


@contextlib.contextmanager
def suppressed_output(*loggers: str) -> Iterator[None]:
    """Keeps warnings, and what goes to loggers ("" is the root), from the user."""
    before = {log: log.level for log in map(logging.getLogger, loggers)}
    for log in before:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in before.items():
            log.setLevel(level)


def first_line(error: Exception) -> str:
    """What another library says, as far as it fits into our sentence."""
    lines = (line.strip() for line in str(error).splitlines())
    telling = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return telling[0] if telling else type(error).__name__


def image_channels(ends: Sequence[tuple[bool, int, int | None]], name: str) -> tuple[int, int]:
    """(input, output) channels of a graph with one image in and one out.

    Args:
        ends: Of the graph's inputs and outputs, in this order: whether it is float32, its rank, and its channels if
            they are fixed.
        name: Where the graph came from.

    Raises:
        UserError: It is no such graph.
    """
    if len(ends) != 2 or any(not is_float or rank != 4 for is_float, rank, _ in ends):
        raise UserError(f"{name} is no generator: its graph must have one float32 input and output [N, C, H, W]")
    taken, made = (channels for _, _, channels in ends)
    if taken is None or made is None:
        raise UserError(f"{name} does not fix its channels")
    return taken, made


def fixed_sizes(images: int | None, height: int | None, width: int | None) -> dict[str, Any]:
    """What an `Engine` is told of a graph that takes images of one size only; nothing of others.

    Args:
        images: Of a batch; None if the graph leaves it free.
        height: Likewise.
        width: Likewise.
    """
    if height is None or width is None:
        return {}
    least, most = (images or 1, height, width), (images or _MANY, height, width)
    return {"shapes": Shapes(least, least, most), "size_divisor": 1, "min_size": 1}
