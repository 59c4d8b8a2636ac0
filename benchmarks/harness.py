"""Timing side by side: cases take turns within one process, so that whatever else the machine does slows all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Case = Callable[[], object]

quick = False
"""Whether cases are small and rounds few: `pytest benchmarks/ --benchmark-only --quick` (conftest.py) sets it."""


def timed_rounds(number: int) -> int:
    """How often a benchmark is timed: `number` of times, twice in quick mode."""
    return 2 if quick else number


class Sweep:
    """Calls made one after the other; on CUDA captured once as a graph, so that the host's time does not count.

    Args:
        calls: What to run; their results are dropped.
        device: Where they run.
    """

    def __init__(self, calls: Sequence[Case], device: torch.device) -> None:
        self.calls, self.graph = calls, None
        if device.type != "cuda":
            return
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for call in calls:  # what is compiled or chosen at a first call is not captured
                call()
        torch.cuda.synchronize(device)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            self()

    def __call__(self) -> None:
        if self.graph is not None and not torch.cuda.is_current_stream_capturing():
            self.graph.replay()
            return
        for call in self.calls:
            call()

    def run_and_wait(self) -> None:
        """The calls and all that they left to do."""
        self()
        if self.graph is not None:
            torch.cuda.synchronize()


def time_once(case: Case, device: torch.device, calls: int = 1) -> float:
    """Milliseconds of one call; on CUDA the mean of some `calls` between two events on the current stream."""
    if device.type != "cuda":
        start = time.perf_counter()
        case()
        return 1e3 * (time.perf_counter() - start)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(calls):
        case()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / calls


def interleave(
    cases: dict[str, Case], *, rounds: int, device: torch.device, warm_up: int = 3, calls: int = 1
) -> dict[str, list[float]]:
    """Times every case once a round, in an order that rotates; returns the milliseconds of each (see `time_once`)."""
    for case in cases.values():
        for _ in range(warm_up):
            case()
    names = list(cases)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(time_once(cases[name], device, calls))
    return times


def ratio(times: dict[str, list[float]], base: str, name: str) -> float:
    """How many times faster `name` is than `base`: the median of the rounds' ratios."""
    return statistics.median(b / t for b, t in zip(times[base], times[name], strict=True))


def table(times: dict[str, list[float]], baseline: str, columns: dict[str, dict[str, str]] | None = None) -> str:
    """A Markdown table of medians, spread, and how many times faster than `baseline`, ratios taken round by round.

    Args:
        times: Milliseconds of each case, by round.
        baseline: The case that the others are compared with.
        columns: Further columns: title -> case -> what stands there.
    """
    columns = columns or {}
    lines = [_row(["case", "median ms", "min", "max", "times faster", *columns]), "|---" * (5 + len(columns)) + "|"]
    for name, values in times.items():
        figures = statistics.median(values), min(values), max(values), ratio(times, baseline, name)
        lines.append(_row([name, *(f"{x:.2f}" for x in figures), *(of.get(name, "") for of in columns.values())]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
