"""Two independent tasks, one after the other or side by side.

Side by side they share the device: on CUDA as two streams, which fill a GPU that one image leaves half idle; on the CPU
as two threads with half of the cores each, which lose less on small operators than all cores together do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

import torch

from cyclegan_fast import ops
from cyclegan_fast.config import TrainConfig
from cyclegan_fast.models import model_of
from cyclegan_fast.ops.extension import runs_reference

T = TypeVar("T")
Task = Callable[[], T]

# Of an operator's input, images of one domain; with more, one cycle fills the device alone.
MAX_PIXELS = {"cuda": 2**20, "cpu": 2**14}  # 16 images of 256 px (a prediction); one of 128 px (measured)


class Runner(Protocol):
    """Runs two tasks and returns both results."""

    def __call__(self, first: Task[T], second: Task[T]) -> tuple[T, T]:  # noqa: D102
        ...


def sequential(first: Task[T], second: Task[T]) -> tuple[T, T]:
    """Runs the second task when the first has freed its memory: half the memory of both at once."""
    return first(), second()


class TwoStreams:
    """Runs the second task on a CUDA stream of its own: one fork, one join, also while a graph is captured.

    The host issues both tasks in the order of `sequential`, so that they draw the same random numbers. No tensor needs
    `record_stream`: what the second task allocates belongs to its stream, which touches it again only after the next
    fork, and so after everything that was done with it in between; what it reads of the caller's is in use until the
    join at most, and there the caller's stream waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def __call__(self, first: Task[T], second: Task[T]) -> tuple[T, T]:
        """Returns both results, ready for the current stream."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)  # fork
        try:
            first_result = first()
            with torch.cuda.stream(self.stream):
                second_result = second()
        finally:
            current.wait_stream(self.stream)  # join
        return first_result, second_result


class TwoThreads:
    """Runs each task on a thread of its own with half of the cores; the results do not depend on their number."""

    def __init__(self) -> None:
        cores = torch.get_num_threads() // 2
        # The threads last: OpenMP keeps a team of workers for each thread that calls it.
        self.threads = [ThreadPoolExecutor(1, "cycle", torch.set_num_threads, (cores,)) for _ in range(2)]

    def __call__(self, first: Task[T], second: Task[T]) -> tuple[T, T]:
        """Returns both results, or raises the exception of one once both have ended."""
        reference = runs_reference(torch.empty(0))  # a setting of the calling thread

        def run(task: Task[T]) -> T:
            with ops.use_reference() if reference else contextlib.nullcontext():
                return task()

        futures = [thread.submit(run, task) for thread, task in zip(self.threads, (first, second), strict=True)]
        wait(futures)
        return futures[0].result(), futures[1].result()


def runs_in_order(runner: Runner) -> bool:
    """Returns whether the host goes through the first task before the second."""
    return not isinstance(runner, TwoThreads)


def why_not_side_by_side(config: TrainConfig, device: torch.device) -> str:
    """Returns why the two cycles of a step must run one after the other here; empty if they need not."""
    model = model_of(config)
    if not model.reconstructs:
        return f"{model.title} trains one direction"
    if model.draws_latents or "AB" in model.discriminators.values():
        return f"{model.title} trains both directions in one pass"
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


def choose_concurrency(config: TrainConfig, device: torch.device) -> Callable[[torch.Tensor], Runner]:
    """Returns the function that picks the runner of a step from its images [N, C, H, W] of one domain."""
    choice = config.run.side_by_side
    if choice == "off" or why_not_side_by_side(config, device):
        return lambda images: sequential
    concurrent: Runner = TwoStreams(device) if device.type == "cuda" else TwoThreads()

    def choose(images: torch.Tensor) -> Runner:
        pixels = images[:, 0].numel() // config.optim.grad_accumulation
        return concurrent if choice == "on" or pixels <= MAX_PIXELS[device.type] else sequential

    return choose
