"""A second device: nothing that is done for cuda:1 touches cuda:0."""

from __future__ import annotations

import gc

import pytest
import torch

from cyclegan_fast.engine.backends.cuda_graphs import GraphPerShape
from cyclegan_fast.training.device_batches import DeviceBatches
from cyclegan_fast.training.graphed_step import WARM_UP_STEPS, GraphedStep
from tests.mock_cuda import runtime
from tests.mock_cuda.steps import batch, make_step


@pytest.fixture(autouse=True)
def _nothing_to_free() -> None:
    """torch empties the cache of all devices before it captures."""
    gc.collect()
    torch.cuda.empty_cache()


def assert_on_device_1(calls: list[runtime.Call]) -> None:
    calls = [call for call in calls if call.name not in ("cudaHostAlloc", "cudaFreeHost")]  # of no device
    assert calls and [call for call in calls if call.device != 1] == []
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("side_by_side", ["on", "off"])
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_step_with_graphs(amp: str, side_by_side: str) -> None:
    device = torch.device("cuda", 1)
    with runtime.recorded() as calls:
        graphed = GraphedStep(make_step("cuda:1", amp=amp, side_by_side=side_by_side, objective={"gan_mode": "wgangp"}))
        source = ({"A": a, "B": b} for a, b in iter(lambda: batch("cuda:1"), None))
        batches = DeviceBatches(source, device)
        for _ in range(WARM_UP_STEPS + 2):
            graphed.step.set_learning_rate(1e-4)
            images = next(batches)
            _, losses = graphed(images["A"], images["B"])
            torch.stack(list(losses.values())).sum()
    assert_on_device_1(calls)
    assert len(graphed.graphs) == 1


def test_an_engine_with_graphs() -> None:
    device = torch.device("cuda", 1)
    with runtime.recorded() as calls:
        weight = torch.zeros(3, 3, 3, 3, device=device)
        runner = GraphPerShape(lambda x: lambda: torch.conv2d(x, weight, padding=1), device, streams=2)
        for _ in range(3):
            assert runner.run(torch.zeros(1, 3, 16, 16)).device == device
        runner.warm(torch.zeros(2, 3, 16, 16))
        runner.close()
    assert_on_device_1(calls)
