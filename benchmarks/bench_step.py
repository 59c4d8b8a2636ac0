"""One training step: ours beside the reference's eager one and torch.compile's, and ours from plain operators up.

pytest benchmarks/bench_step.py --benchmark-only                   each case alone, a laptop's workload on a CPU
python -m benchmarks.measure --out docs/results --only step        all taking turns, in several workloads
python -m benchmarks.measure --out docs/results --only ladder      ours, one part switched on after the other
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
import torch

from benchmarks.cuda_trace import Kernel, idle_share, kernel_page, trace
from benchmarks.harness import DEVICE, interleave, table, time_once, timed_rounds
from benchmarks.results import Measured, origin
from benchmarks.step_cases import (
    LADDER,
    NARROW_ON_CUDA,
    OURS_ON_CUDA,
    REFERENCE,
    WORK,
    Prepared,
    Workload,
    build_cases,
    build_ladder,
)

ROUNDS = 20
# Beside `WORK`: other batches on a GPU; on a CPU the two workloads that its goals are set for, the case of record last.
BATCHES = [Workload(size=64, blocks=6, channels=16), Workload()]
if DEVICE.type == "cuda":
    BATCHES = [Workload(batch=8), Workload(identity=False), Workload(batch=16), Workload(size=512)]
CALLS = 5 if DEVICE.type == "cuda" else 1  # steps between two events: few milliseconds each

Builder = Callable[[Workload, torch.device], dict[str, Callable[[], Prepared]]]
T = TypeVar("T")


class OutOfTimeError(Exception):
    """A case took longer to set up than there is time for."""


@pytest.mark.parametrize("name", build_cases(Workload(size=32, blocks=1, channels=1), DEVICE))
def test_step(benchmark: Any, name: str) -> None:
    step = build_cases(WORK, DEVICE)[name]().run

    def run() -> None:
        step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.extra_info |= {"size": WORK.size, "batch": WORK.batch, "blocks": WORK.blocks, "device": DEVICE.type}
    benchmark.pedantic(run, rounds=timed_rounds(10), warmup_rounds=1)


def measure_steps(
    works: Sequence[Workload],
    seconds: float,
    report: Callable[[list[dict[str, Any]]], None],
    build: Builder = build_cases,
) -> None:
    """Measures every workload as long as there is time; `report` gets what there is after each of them."""
    deadline, results, load = time.monotonic() + seconds, [], os.getloadavg()[1]
    for i, work in enumerate(works):
        result = measure_workload(work, build, (deadline - time.monotonic()) / (len(works) - i))
        results.append(result | {"load": load})
        report(results)


def build_uncompiled(work: Workload, device: torch.device) -> dict[str, Callable[[], Prepared]]:
    """`build_cases` without what torch.compile takes a minute for, and what is off by default."""
    left_out = ("compile", NARROW_ON_CUDA)
    return {name: setup for name, setup in build_cases(work, device).items() if not any(n in name for n in left_out)}


def measure_ladder(seconds: float) -> list[dict[str, Any]]:
    """Measures our step from plain operators up, one part switched on after the other."""
    return [measure_workload(WORK, build_ladder, seconds)]


def measure_workload(work: Workload, build: Builder, seconds: float) -> dict[str, Any]:
    """Sets every case up within the time there is, times them in turn, and looks at the kernels of each."""
    print(work, flush=True)
    began = time.monotonic()
    cases, left_out, peak_gib = _set_up(build(work, DEVICE), 0.8 * seconds)
    if not cases:
        raise SystemExit(f"{work}: no case was ready in time: {left_out}")
    calls = {name: case.run for name, case in cases.items()}
    seconds_of_a_round = CALLS * sum(time_once(call, DEVICE) for call in calls.values()) / 1e3
    remaining = seconds - (time.monotonic() - began)
    rounds = max(3, min(ROUNDS, int(remaining / max(seconds_of_a_round, 1e-6))))
    times = interleave(calls, rounds=rounds, device=DEVICE, warm_up=0, calls=CALLS)
    baseline = REFERENCE if REFERENCE in times else next(iter(times))
    print(table(times, baseline), flush=True)  # the run may be ended while the kernels are looked at
    kernels = {name: trace(case.run) for name, case in cases.items()} if DEVICE.type == "cuda" else {}
    predicted = {rung.name: rung.predicted for rung in LADDER}
    columns = _columns(peak_gib, kernels)
    if build is build_ladder and DEVICE.type == "cuda" and work == Workload():  # what the predictions are for
        columns["predicted ms"] = predicted
    text = table(times, baseline, columns)
    print(text, flush=True)
    return {
        "workload": vars(work),
        "title": str(work),
        "rounds": rounds,
        "table": text,
        "median_ms": {name: statistics.median(values) for name, values in times.items()},
        "all_ms": times,
        "left_out": left_out,
        "peak_gib": peak_gib,
        "kernel_count": {name: len(found) for name, found in kernels.items()},
        "idle_share": {name: idle_share(found) for name, found in kernels.items()},
        "kernel_page": kernel_page(kernels[OURS_ON_CUDA], str(work)) if OURS_ON_CUDA in kernels else [],
    }


def _set_up(
    setups: dict[str, Callable[[], Prepared]], seconds: float
) -> tuple[dict[str, Prepared], dict[str, str], dict[str, float]]:
    """The cases that were ready in time, why the others are left out, and the CUDA memory in GiB of each."""
    deadline = time.monotonic() + seconds
    cases: dict[str, Prepared] = {}
    left_out: dict[str, str] = {}
    peak_gib: dict[str, float] = {}
    for name, setup in setups.items():
        torch.cuda.empty_cache()
        in_use = torch.cuda.memory_reserved() / 2**30 if DEVICE.type == "cuda" else 0.0
        try:
            cases[name] = _within(deadline - time.monotonic(), setup)
        except (OutOfTimeError, RuntimeError) as error:
            left_out[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            print(f"left out: {name}: {left_out[name]}", flush=True)
            continue
        if (peak := cases[name].peak_gib) is not None:
            peak_gib[name] = peak - in_use
    return cases, left_out, peak_gib


def _within(seconds: float, action: Callable[[], T]) -> T:
    """Calls `action`, which is interrupted once the time is over."""

    def on_alarm(*_: object) -> None:
        raise OutOfTimeError("not ready in time")

    before = signal.signal(signal.SIGALRM, on_alarm)
    # And again every second: Python drops what is raised in a callback of the interpreter's own.
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds), 1.0)
    try:
        return action()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _columns(peak_gib: dict[str, float], kernels: dict[str, list[Kernel]]) -> dict[str, dict[str, str]]:
    """What a table of times shows beside them, where CUDA tells it."""
    if not kernels:
        return {}
    return {
        "reserved GiB": {name: f"{peak:.2f}" for name, peak in peak_gib.items()},
        "kernels": {name: str(len(found)) for name, found in kernels.items()},
        "idle": {name: f"{100 * idle_share(found):.1f} %" for name, found in kernels.items()},
    }


# ---- pages ----
def ladder_page(measured: Measured) -> list[str]:
    return [
        "## Our step, rung by rung",
        "",
        *origin(measured),
        "",
        "Each case adds one thing to the one before; on a GPU in bfloat16, on a CPU in float32 and without graphs.",
        "Predictions were made for an H200 before anything was measured.",
        "",
        *_tables(measured),
    ]


def step_page(title: str, measured: Measured) -> list[str]:
    return [f"## {title}", "", *origin(measured), "", *_tables(measured)]


def kernels_page(measured: Measured, device: str) -> list[str]:
    """Where the time of our graph goes, for every workload that ran as one; empty if none did."""
    pages = [line for result in measured["results"] for line in result.get("kernel_page", [])]
    head = [f"# {device}: the kernels of one step", "", f"`{OURS_ON_CUDA}`, one replay.", ""]
    return [*head, *origin(measured), "", *pages] if pages else []


def _tables(measured: Measured) -> list[str]:
    lines: list[str] = []
    for result in measured["results"]:
        work = result["workload"]
        title = f"Batch {work['batch']}, {work['size']} px, {work['blocks']} blocks, {work['channels']} channels"
        lines += [
            f"### {result.get('title', title)}",
            "",
            f"Median of {result.get('rounds', ROUNDS)} steps, the cases taking turns in one process.",
            *_load_note(result),
            "",
            result["table"],
            "",
        ]
        lines += [f"Left out: {case} ({why})" for case, why in result["left_out"].items()]
    return lines


def _load_note(result: dict[str, Any]) -> list[str]:
    """What else the machine did: steps that share their cores wait for them."""
    if (load := result.get("load")) is None:
        return []
    return [f"Other processes kept {load:.1f} cores busy in the five minutes before (the load average)."]
