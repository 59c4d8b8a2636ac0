"""Every setting that trains is captured: fork and join, memory, launches, and what a replay costs the host."""

from __future__ import annotations

import contextlib
import gc
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan_fast.engine.backends.cuda_graphs import GraphPerShape
from cyclegan_fast.errors import UserError
from cyclegan_fast.training.graphed_step import WARM_UP_STEPS, GraphedStep
from tests.mock_cuda import runtime
from tests.mock_cuda.steps import batch, make_step, warmed_up

LAUNCHES = Path(__file__).resolve().parents[2] / "docs" / "results" / "launches.md"

SETTINGS: dict[str, dict[str, Any]] = {
    **{
        f"{amp}, side by side {side}": {"amp": amp, "side_by_side": side}
        for amp in ("off", "bf16", "fp16")
        for side in ("on", "off")
    },
    "activation checkpointing": {"amp": "bf16", "activation_checkpointing": True},
    "wgangp": {"objective": {"gan_mode": "wgangp"}, "side_by_side": "on"},
    "wgangp in bf16": {"objective": {"gan_mode": "wgangp"}, "amp": "bf16"},
    "vanilla": {"objective": {"gan_mode": "vanilla"}},
    "hinge": {"objective": {"gan_mode": "hinge"}},
    "no identity loss": {"objective": {"lambda_identity": 0.0}},
    "dropout": {"model": {"dropout": True}, "side_by_side": "on"},
    "micro-batches": {"optim": {"grad_accumulation": 2, "batch_size": 1}, "amp": "fp16"},
    "U-Net": {"model": {"generator": "unet_128"}},
    "batch norm": {"model": {"norm": "batch"}},
    "averaged generators": {"optim": {"ema": 0.999}, "model": {"norm": "batch"}, "amp": "fp16"},
    "batch 16": {"optim": {"batch_size": 16}, "amp": "bf16", "side_by_side": "on"},
}  # fmt: skip


def batches_of(settings: dict[str, Any]) -> Callable[[], tuple[Tensor, Tensor]]:
    optim = settings.get("optim", {})
    images = optim.get("batch_size", 1) * optim.get("grad_accumulation", 1)
    size = 128 if "generator" in settings.get("model", {}) else 64
    return lambda: batch(images=images, height=size, width=size)


@contextlib.contextmanager
def allocations() -> Iterator[list[int]]:
    """Yields a list that holds, once the block has ended, the addresses that were allocated in it."""
    addresses: list[int] = []
    torch.cuda.memory._record_memory_history("all", context=None, clear_history=True)
    try:
        yield addresses
        traces = torch.cuda.memory._snapshot()["device_traces"][0]
        # Without the seed and the offset of the generator, which torch makes once for all graphs.
        addresses += [entry["addr"] for entry in traces if entry["action"] == "alloc" and entry["size"] > 8]
    finally:
        torch.cuda.memory._record_memory_history(None)


def pools_of(addresses: list[int]) -> Counter[tuple[int, int]]:
    """How many addresses belong to which of the allocator's pools; (0, 0) is the one outside all graphs."""
    segments = torch.cuda.memory_snapshot()
    return Counter(
        tuple(s["segment_pool_id"])
        for address in addresses
        for s in segments
        if s["address"] <= address < s["address"] + s["total_size"]
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_is_captured_and_replayed(name: str) -> None:
    settings = SETTINGS[name]
    batches = batches_of(settings)
    step = make_step(**settings)
    graphed = warmed_up(step, batches)
    again = batches()
    with runtime.recorded() as calls, allocations() as addresses:
        graphed(*again)
    nodes = [call for call in calls if call.graph and call.kind in runtime.WORK]
    beside = step.choose_runner(batches()[0]).__class__.__name__ == "TwoStreams"
    assert len({node.stream for node in nodes}) == (2 if beside else 1)
    assert not [call for call in calls if call.graph and call.kind == "sync"]
    pools = pools_of(addresses)
    assert pools.pop((0, 0)) == 2 and set(pools) == {graphed.memory}  # outside the graph its static inputs alone

    with runtime.recorded() as calls:
        graphed(*again)
    kinds = [call.kind for call in calls if call.kind in ("sync", "alloc", "free", "graph", *runtime.WORK)]
    assert [call.name for call in calls if call.kind == "graph"] == [str(len(nodes))]
    assert set(kinds) <= {"graph", "memcpy", "kernel"} and kinds.count("memcpy") <= 2
    assert kinds.count("kernel") <= 3  # the generator of random numbers moves on


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_launches_are_those_of_the_page(amp: str) -> None:
    """The case of record in a graph, against what benchmarks/launches.py counts without CUDA."""
    model = {"generator": "resnet_9blocks", "discriminator": "basic", "ngf": 64, "ndf": 64}
    graphed = warmed_up(make_step(model=model, amp=amp, side_by_side="on"), lambda: batch(height=256, width=256))
    with runtime.recorded() as calls:
        graphed(*batch(height=256, width=256))
    nodes = [call for call in calls if call.graph and call.kind in runtime.WORK]
    counted = launches_of(f"step, {'fp32' if amp == 'off' else amp}")
    # Multi-tensor operators come in as many launches as their tensors need, and a sum may clear its counters first.
    assert 0 <= len(nodes) - counted["together"] <= 12
    products = [node for node in nodes if re.match(r"(input |weight |)(gradient of the )?convolution ", node.name)]
    assert len(products) == counted["convolution"]


def launches_of(case: str) -> dict[str, int]:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in LAUNCHES.read_text().splitlines() if "|" in line
    ]
    kinds = next(row for row in rows if "together" in row)
    numbers = next(row for row in rows if row[0] == case)
    return {kind: int(number) for kind, number in zip(kinds[1:], numbers[1:], strict=True)}


def test_shapes_share_the_memory_of_the_graphs() -> None:
    graphed = GraphedStep(make_step(amp="bf16"))
    counts = [3, 2, 1]
    for _ in range(WARM_UP_STEPS + 2):
        for images in counts:
            graphed(*batch(images=images))
    assert len(graphed.graphs) == 3
    with runtime.recorded() as calls:
        for images in counts[::-1]:
            graphed(*batch(images=images))
    assert [call.kind for call in calls].count("graph") == 3 and not [c for c in calls if c.kind == "sync"]


def held() -> tuple[int, int, int]:
    """Bytes that tensors, torch's allocator and the mock hold on the device, without what waits to be reused."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), runtime.allocated(0)


def works_on() -> None:
    """The generator draws, and memory that another stream has read comes back."""
    assert torch.rand(3, device="cuda").shape == (3,) and torch.cuda.get_rng_state().numel()
    before, x = torch.cuda.memory_allocated(), torch.zeros(1 << 20, device="cuda")
    x.record_stream(torch.cuda.Stream())
    del x
    y = torch.zeros(1, device="cuda")
    del y
    assert torch.cuda.memory_allocated() == before


def test_a_capture_that_fails_leaves_nothing_behind() -> None:
    step = make_step(amp="bf16", side_by_side="on")
    graphed = warmed_up(step, batch)
    hook = step.cycle_B.discriminator.register_forward_hook(lambda *_: torch.cuda.synchronize())
    before = held()
    for _ in range(3):
        with pytest.raises(UserError, match="could not be captured"):
            graphed(*batch())
        runtime.take_faults()
        assert held() == before
        works_on()
    hook.remove()
    graphed(*batch())  # and the next one works
    assert len(graphed.graphs) == 1


def test_an_exception_during_a_capture_leaves_nothing_behind() -> None:
    step = make_step()
    graphed = warmed_up(step, batch)

    def fail(*_: object) -> None:
        if runtime.capturing():
            raise torch.OutOfMemoryError("full")

    hook = step.cycle_B.discriminator.register_forward_hook(fail)
    before = held()
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        graphed(*batch())
    assert held() == before
    works_on()
    hook.remove()
    graphed(*batch())


def test_an_engine_works_on_after_a_capture_that_fails() -> None:
    fails = [True]

    def prepare(x: Tensor) -> Callable[[], Tensor]:
        def call() -> Tensor:
            if fails and runtime.capturing():
                fails.clear()
                torch.cuda.synchronize()
            return x * 2

        return call

    runner = GraphPerShape(prepare, torch.device("cuda", 0))
    images = torch.zeros(1, 3, 8, 8)
    runner.run(images)
    with pytest.raises(RuntimeError, match="previous error during capture"):
        runner.run(images)
    runtime.take_faults()
    works_on()
    for _ in range(3):
        assert runner.run(images).shape == images.shape
    with runtime.recorded() as calls:
        runner.run(images)
    assert [call.kind for call in calls].count("graph") == 1
    runner.close()
