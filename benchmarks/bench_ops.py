"""Each operator beside torch's own ops and torch.compile's fusion of them.

pytest benchmarks/bench_ops.py --benchmark-only --benchmark-group-by=group    each implementation alone
python -m benchmarks.measure --out docs/results --only operators              all taking turns, and a copy's speed

Sets of inputs take turns, so that a call finds its own outside the caches; the results are checked before anything is
timed; extra_info holds the bytes that a call moves and the GB/s. The cases are in op_cases/.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.harness import DEVICE, Sweep, interleave, ratio, timed_rounds
from benchmarks.op_cases import OpCase, cases
from benchmarks.results import Measured, origin

ROUNDS = 20
PEERS = ("aten", "compiled")


def _name(maker: Callable[[], OpCase]) -> str:
    function, arguments = getattr(maker, "func", maker), getattr(maker, "args", ())
    return "-".join(str(part).replace(" ", "") for part in (function.__name__, *arguments))


@pytest.mark.parametrize("name", ["ours", *PEERS])
@pytest.mark.parametrize("maker", list(cases()), ids=_name)
def test_op(benchmark: Any, maker: Callable[[], OpCase], name: str) -> None:
    case = maker()
    if name not in case.variants:
        pytest.skip(f"there is nothing {name} to compare with")
    case.check(name)
    sweep = Sweep([case.variants[name](i) for i in range(case.sets)], DEVICE)
    benchmark.group = f"{case.op}, {case.what}"
    benchmark.extra_info |= {"bytes_a_call": case.bytes_moved, "calls_a_round": case.sets}
    benchmark.pedantic(sweep.run_and_wait, rounds=timed_rounds(5), warmup_rounds=1)
    if benchmark.stats:  # none with --benchmark-disable
        benchmark.extra_info["gb_per_s"] = case.bytes_moved * case.sets / benchmark.stats["median"] / 1e9


def measure_operators(seconds: float, report: Callable[[list[dict[str, Any]]], None]) -> None:
    """Measures every operator beside its peers and a copy of as many bytes, as long as there is time.

    `report` gets what there is after every few of them.
    """
    deadline = time.monotonic() + seconds
    makers, rows = list(cases()), []
    for i, maker in enumerate(makers):
        if time.monotonic() > deadline:
            print(f"out of time: {len(makers) - i} of {len(makers)} cases are left out", flush=True)
            break
        rows.append(measure_operator(maker()))
        print(operator_row(rows[-1]), flush=True)
        if len(rows) % 5 == 0:
            report(rows)
    report(rows)


def measure_operator(case: OpCase) -> dict[str, Any]:
    """Microseconds a call of each implementation, after their results were checked."""
    torch._dynamo.reset()  # each case compiles its own: after eight of them torch would run the next one eagerly
    for name in case.variants:
        case.check(name)
    half = case.bytes_moved // 2
    sources, targets = ([torch.ones(half, dtype=torch.uint8, device=DEVICE) for _ in range(case.sets)] for _ in "ab")
    calls = {name: [make(i) for i in range(case.sets)] for name, make in case.variants.items()}
    calls["copy"] = [functools.partial(b.copy_, a) for a, b in zip(sources, targets, strict=True)]
    sweeps = {name: Sweep(list_of_calls, DEVICE) for name, list_of_calls in calls.items()}
    times = interleave(sweeps, rounds=ROUNDS, device=DEVICE, warm_up=1)
    return {
        "op": case.op,
        "what": case.what,
        "bytes": case.bytes_moved,
        "us": {name: 1e3 * statistics.median(values) / case.sets for name, values in times.items()},
        "copy_share": ratio(times, "copy", "ours"),
        "times_faster": {name: 1 / ratio(times, "ours", name) for name in case.variants if name != "ours"},
    }


def operator_row(row: dict[str, Any]) -> str:
    us, faster = row["us"]["ours"], row["times_faster"]
    cells = [row["op"], row["what"], f"{us:.1f}", f"{row['bytes'] / us / 1e3:.1f}", f"{100 * row['copy_share']:.0f} %"]
    cells += [f"{faster[peer]:.2f}" if peer in faster else "" for peer in PEERS]
    return "| " + " | ".join(cells) + " |"


def operators_page(measured: Measured) -> list[str]:
    """The table, in Markdown."""
    return [
        "## Operators",
        "",
        *origin(measured),
        "",
        f"Medians of {ROUNDS} rounds, all implementations taking turns in one process on inputs that are not in the",
        "caches. GB/s count each pass over the memory; a norm of more than 64x64 pixels reads its input twice. The",
        "share is that of a copy of as many bytes, timed in the same rounds. The last columns: how many times faster",
        "than torch's own ops, and than torch.compile's fusion of them.",
        "",
        "| operator | input | us | GB/s | of a copy | x torch | x compiled |",
        "|---|---|---|---|---|---|---|",
        *(operator_row(row) for row in measured["results"]),
        "",
    ]
