"""Two pieces of work that need nothing of each other: one after the other, or side by side on two CUDA streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from cyclegan_fast.config import TrainConfig

T = TypeVar("T")
Lanes = Callable[[Callable[[], T], Callable[[], T]], tuple[T, T]]


def one_after_the_other(first: Callable[[], T], second: Callable[[], T]) -> tuple[T, T]:
    """What the first needed is free again before the second begins: half the memory of two at once."""
    return first(), second()


class SideBySide:
    """Runs the second piece on a stream of its own: one fork, one join, inside a graph's capture too.

    The host issues both in the order of `one_after_the_other`, so that both draw the same random numbers. Memory needs
    no further care. What the second piece allocates belongs to its stream, and that stream touches it again only after
    the next fork, which waits for all that was done with it in between; what it reads of the caller's is in use until
    the join at most, and the caller's stream waits there.

    Args:
        device: The CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def __call__(self, first: Callable[[], T], second: Callable[[], T]) -> tuple[T, T]:
        """Returns the results of both, ready for the current stream."""
        here = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(here)  # fork
        try:
            of_first = first()
            with torch.cuda.stream(self.stream):
                of_second = second()
        finally:
            here.wait_stream(self.stream)  # join
        return of_first, of_second


def why_not_side_by_side(config: TrainConfig, device: torch.device) -> str:
    """Why the two directions of a step must run one after the other here; empty if they need not."""
    if config.run.side_by_side == "off":
        return "--side-by-side is off"
    if device.type != "cuda":
        return "there is no CUDA device" if not torch.cuda.is_available() else "--device is not a CUDA device"
    if config.model.norm == "batch":
        return "both directions move the running statistics of --norm batch"
    return ""
