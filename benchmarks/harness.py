"""Timing side by side: the cases take turns within one process, so that the machine's moods meet all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

Case = Callable[[], object]


def time_once(case: Case, device: torch.device) -> float:
    """Milliseconds of one call; on CUDA between two events on the current stream."""
    if device.type != "cuda":
        start = time.perf_counter()
        case()
        return 1e3 * (time.perf_counter() - start)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    case()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def interleave(
    cases: dict[str, Case], *, rounds: int, device: torch.device, warm_up: int = 3
) -> dict[str, list[float]]:
    """Times every case once a round, in an order that rotates; returns the milliseconds of each."""
    for case in cases.values():
        for _ in range(warm_up):
            case()
    names = list(cases)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(time_once(cases[name], device))
    return times


def table(times: dict[str, list[float]], baseline: str) -> str:
    """A Markdown table of medians, spread, and how many times faster than `baseline`, ratios taken round by round."""
    lines = ["| case | median ms | min | max | times faster |", "|---|---|---|---|---|"]
    for name, values in times.items():
        ratio = statistics.median(base / value for base, value in zip(times[baseline], values, strict=True))
        lines.append(
            f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} | {ratio:.2f} |"
        )
    return "\n".join(lines)
