"""What ran on the GPU during one call: its kernels, how long it was idle, and where the time went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType

from benchmarks.harness import Case

TOP = 40  # kernels in the table


@dataclass(frozen=True)
class Kernel:
    """One kernel, copy or fill on the GPU."""

    name: str
    start: float  # us
    end: float  # us
    stream: int


def trace(case: Case) -> list[Kernel]:
    """The kernels of one call, by the time at which they started."""
    case()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        case()
        torch.cuda.synchronize()
    found = [
        Kernel(event.name, event.time_range.start, event.time_range.end, event.device_resource_id)
        for event in profile.events() or ()
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    return sorted(found, key=lambda kernel: kernel.start)


def busy(kernels: Iterable[Kernel]) -> float:
    """Microseconds in which at least one kernel ran."""
    total, until = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        total += max(0.0, kernel.end - max(kernel.start, until))
        until = max(until, kernel.end)
    return total


def idle_share(kernels: list[Kernel]) -> float:
    """Share of the time between the first start and the last end in which nothing ran; all of it, if nothing did."""
    if not kernels:
        return 1.0
    span = max(kernel.end for kernel in kernels) - min(kernel.start for kernel in kernels)
    return 1 - busy(kernels) / span


def kernel_page(kernels: list[Kernel], title: str) -> list[str]:
    """A Markdown section: the sums, and the kernels that took the longest together."""
    by_name: dict[str, list[float]] = defaultdict(list)
    for kernel in kernels:
        by_name[kernel.name].append(kernel.end - kernel.start)
    sums = sorted(by_name.items(), key=lambda item: -sum(item[1]))
    total = sum(map(sum, by_name.values()))
    shown = [
        f"| {len(times)} | {sum(times):.1f} | {sum(times) / len(times):.2f} | {100 * sum(times) / total:.1f} % "
        f"| `{name[:120].replace('|', ' ')}` |"
        for name, times in sums[:TOP]
    ]
    rest = sum(len(times) for _, times in sums[TOP:])
    return [
        f"## {title}",
        "",
        f"{len(kernels)} kernels, copies and fills on {len({kernel.stream for kernel in kernels})} streams; "
        f"{total:.0f} us of work in {busy(kernels):.0f} us; idle {100 * idle_share(kernels):.1f} % of the time.",
        "",
        "| calls | us together | us each | share | kernel |",
        "|---|---|---|---|---|",
        *shown,
        *([f"| {rest} | {sum(sum(t) for _, t in sums[TOP:]):.1f} | | | all others |"] if rest else []),
        "",
    ]
