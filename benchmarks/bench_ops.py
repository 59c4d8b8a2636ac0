"""Each operator beside torch's own ops and torch.compile's fusion of them.

pytest benchmarks/bench_ops.py --benchmark-only --benchmark-group-by=group

Sets of inputs take turns, so that a call finds its own outside the caches; the results are checked before anything is
timed; extra_info holds the bytes that a call moves and the GB/s. The table with shares of the copy bandwidth, all ways
taking turns, is that of `python -m benchmarks.measure`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.harness import Sweep
from benchmarks.op_cases import DEVICE, OpCase, cases


def _name(maker: Callable[[], OpCase]) -> str:
    function, arguments = getattr(maker, "func", maker), getattr(maker, "args", ())
    return "-".join(str(part).replace(" ", "") for part in (function.__name__, *arguments))


@pytest.mark.parametrize("way", ["ours", "aten", "compiled"])
@pytest.mark.parametrize("maker", cases(), ids=_name)
def test_op(benchmark: Any, maker: Callable[[], OpCase], way: str) -> None:
    case = maker()
    if way not in case.ways:
        pytest.skip(f"there is nothing {way} to compare with")
    case.check(way)
    sweep = Sweep([case.ways[way](i) for i in range(case.sets)], DEVICE)
    benchmark.group = f"{case.op}, {case.what}"
    benchmark.extra_info |= {"bytes_a_call": case.bytes_moved, "calls_a_round": case.sets}
    benchmark.pedantic(sweep.run_and_wait, rounds=5, warmup_rounds=1)
    seconds = benchmark.stats["median"] / case.sets
    benchmark.extra_info["gb_per_s"] = case.bytes_moved / seconds / 1e9
