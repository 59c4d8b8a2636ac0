"""Two pieces of work that need nothing of each other: one after the other, or side by side.

Side by side they share the machine: on CUDA two streams, which fill it where one image leaves it half empty; on the
CPU two threads with half of the cores each, which waste less on small operators than all cores on each of them do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

import torch

from cyclegan_fast import ops
from cyclegan_fast.config import TrainConfig
from cyclegan_fast.ops.extension import runs_reference

T = TypeVar("T")
Work = Callable[[], T]

# Of an operator's input, of one domain; from there on one direction fills the machine alone.
MOST_PIXELS = {"cuda": 2**20, "cpu": 2**14}  # 16 images of 256 px (a prediction); one of 128 px (measured)


class Lanes(Protocol):
    """Runs two pieces of work and returns both results."""

    def __call__(self, first: Work[T], second: Work[T]) -> tuple[T, T]:  # noqa: D102
        ...


def sequential(first: Work[T], second: Work[T]) -> tuple[T, T]:
    """What the first needed is free again before the second begins: half the memory of two at once."""
    return first(), second()


class TwoStreams:
    """Runs the second piece on a CUDA stream of its own: one fork, one join, inside a graph's capture too.

    The host issues both in the order of `sequential`, so that both draw the same random numbers. Memory needs
    no further care. What the second piece allocates belongs to its stream, and that stream touches it again only after
    the next fork, which waits for all that was done with it in between; what it reads of the caller's is in use until
    the join at most, and the caller's stream waits there.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def __call__(self, first: Work[T], second: Work[T]) -> tuple[T, T]:
        """Returns the results of both, ready for the current stream."""
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)  # fork
        try:
            of_first = first()
            with torch.cuda.stream(self.stream):
                of_second = second()
        finally:
            here.wait_stream(self.stream)  # join
        return of_first, of_second


class TwoThreads:
    """Runs each piece on a thread of its own with half of the cores: the bits are those of as many cores alone."""

    def __init__(self) -> None:
        cores = torch.get_num_threads() // 2
        # Threads that last: OpenMP keeps its workers, and their number, for each thread that calls it.
        self.threads = [ThreadPoolExecutor(1, "lane", torch.set_num_threads, (cores,)) for _ in range(2)]

    def __call__(self, first: Work[T], second: Work[T]) -> tuple[T, T]:
        """Returns the results of both."""
        reference = runs_reference(torch.empty(0))  # a setting of the caller's thread

        def run(work: Work[T]) -> T:
            with ops.use_reference() if reference else contextlib.nullcontext():
                return work()

        futures = [thread.submit(run, work) for thread, work in zip(self.threads, (first, second), strict=True)]
        wait(futures)
        return futures[0].result(), futures[1].result()


def why_not_side_by_side(config: TrainConfig, device: torch.device) -> str:
    """Why the two directions of a step must run one after the other here; empty if they need not."""
    if config.model.norm == "batch":
        return "both directions move the running statistics of --norm batch"
    if device.type == "cuda":
        return ""
    if torch.get_num_threads() < 2:
        return "there is one thread"
    if config.model.dropout or config.objective.gan_mode == "wgangp":
        return "both directions would draw from one random generator in any order"
    if config.run.compile:
        return "--compile works on one thread"
    return ""


def choose_concurrency(config: TrainConfig, device: torch.device) -> Callable[[torch.Tensor], Lanes]:
    """Returns what picks the lanes for a step from its images [N, C, H, W] of one domain."""
    wanted, most = config.run.side_by_side, MOST_PIXELS[device.type]
    if wanted == "off" or why_not_side_by_side(config, device):
        return lambda images: sequential
    beside: Lanes = TwoStreams(device) if device.type == "cuda" else TwoThreads()

    def choose(images: torch.Tensor) -> Lanes:
        pixels = images[:, 0].numel() // config.optim.grad_accumulation
        return beside if wanted == "on" or pixels <= most else sequential

    return choose
