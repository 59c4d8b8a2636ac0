"""The step with narrow convolutions on CUDA: as close to float32 as with torch's, and the same bits in a graph."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cyclegan_fast import ops
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.graphed_step import GraphedStep
from tests.training.gradients import recorded_gradients
from tests.training.test_step_gpu import MODEL, assert_same_steps, make_batches, make_step, to_gpu

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """No TF32, and the same algorithms of cuDNN in every run."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def test_gradients_are_as_close_to_float32_as_with_torch() -> None:
    networks, batch = build_networks(MODEL), to_gpu(make_batches()[0])

    def gradients(amp: str, narrow: bool) -> torch.Tensor:
        step = make_step(networks, "cuda", amp, side_by_side="off")
        found = recorded_gradients(step)
        with ops.narrow_convolutions(narrow):
            step(*batch)
        weights = step.optimizer_G.weights + step.optimizer_D.weights
        return torch.cat([found[w].flatten().double() for w in weights])

    exact = gradients("off", False)
    ours, torchs = ((gradients("bf16", narrow) - exact).norm().item() for narrow in (True, False))
    assert ours <= 1.5 * torchs < 0.3 * exact.norm().item()


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_graph_equals_eager_bit_for_bit(amp: str) -> None:
    networks = build_networks(MODEL)
    with ops.narrow_convolutions(True):
        eager, captured = (make_step(networks, "cuda", amp, side_by_side="on") for _ in "ab")
        assert_same_steps(eager, GraphedStep(captured), make_batches(), of=(eager, captured))
