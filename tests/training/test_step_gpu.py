"""The step on CUDA: equal to the CPU's, and equal to itself as a graph."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cyclegan_fast.config import ModelConfig, ObjectiveConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.graphed_step import GraphedStep
from cyclegan_fast.training.step import CycleGANStep

pytestmark = pytest.mark.gpu

MODEL = ModelConfig(generator="resnet_2blocks", discriminator="n_layers", n_layers=2, ngf=16, ndf=16)
STEPS = 12


def make_step(networks: nn.ModuleDict, device: str, amp: str = "off") -> CycleGANStep:
    nets = copy.deepcopy(networks).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = TrainConfig(model=MODEL, objective=ObjectiveConfig(pool_size=3), run=RunConfig(amp=amp))  # type: ignore[arg-type]
    return CycleGANStep(nets, config)


def make_batches(dtype: torch.dtype = torch.float32) -> list[tuple[torch.Tensor, torch.Tensor]]:
    shape = (1, 3, 64, 64)
    return [(torch.rand(shape, dtype=dtype) * 2 - 1, torch.rand(shape, dtype=dtype) * 2 - 1) for _ in range(STEPS)]


def flat_gradients(weights: list[nn.Parameter]) -> torch.Tensor:
    return torch.cat([w.grad.flatten().cpu() for w in weights if w.grad is not None])


@pytest.fixture
def exact_float32():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = (
        False,
        True,
        False,
    )
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_first_step_equals_the_cpu(exact_float32: None, dtype: torch.dtype) -> None:
    networks = build_networks(MODEL).to(dtype)
    batch = make_batches(dtype)[0]
    on_cpu, on_gpu = make_step(networks, "cpu"), make_step(networks, "cuda")
    _, expected = on_cpu(*batch)
    _, got = on_gpu(*(x.cuda() for x in batch))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    for name, value in expected.items():
        assert abs(got[name].item() - value.item()) <= tolerance * abs(value.item()), name
    for ours, theirs in ((on_gpu.weights_G, on_cpu.weights_G), (on_gpu.weights_D, on_cpu.weights_D)):
        got_all, expected_all = flat_gradients(ours), flat_gradients(theirs)
        assert (got_all - expected_all).norm() <= 10 * tolerance * expected_all.norm()


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_graph_equals_eager_bit_for_bit(exact_float32: None, amp: str) -> None:
    networks, batches = build_networks(MODEL), make_batches()
    eager, captured = make_step(networks, "cuda", amp), make_step(networks, "cuda", amp)
    graphed = GraphedStep(captured)
    for i, batch in enumerate(batches):
        real = tuple(x.cuda().to(memory_format=torch.channels_last) for x in batch)
        rate = 2e-4 * (1 - i / STEPS)  # a changing rate must reach the graph
        eager.set_learning_rate(rate)
        captured.set_learning_rate(rate)
        pictures, expected = eager(*real)
        images, losses = graphed(*real)
        for name, value in expected.items():
            assert losses[name].equal(value), f"step {i}: {name} {losses[name].item()} != {value.item()}"
        assert images["fake_B"].equal(pictures["fake_B"])
    assert graphed.graph is not None
    for ours, theirs in zip(captured.weights_G + captured.weights_D, eager.weights_G + eager.weights_D, strict=True):
        assert ours.equal(theirs)


def test_a_resumed_step_continues_inside_a_graph(exact_float32: None) -> None:
    networks, batches = build_networks(MODEL), make_batches()
    straight = make_step(networks, "cuda")
    for batch in batches[:4]:
        straight(*(x.cuda() for x in batch))
    resumed = make_step(straight.networks, "cuda")
    state = copy.deepcopy(straight.state_dict())
    for name in ("optimizer_G", "optimizer_D"):  # as a checkpoint gives it: all tensors on the CPU
        state[name]["param_groups"][0]["lr"] = state[name]["param_groups"][0]["lr"].cpu()
    resumed.load_state_dict(state)
    graphed = GraphedStep(resumed)
    for i, batch in enumerate(batches[4:]):
        real = tuple(x.cuda() for x in batch)
        for step in (straight, resumed):
            step.set_learning_rate(1e-4 / (i + 1))
        _, expected = straight(*real)
        _, losses = graphed(*real)
        assert all(losses[name].equal(expected[name]) for name in expected), f"step {i}"


def test_a_loss_that_is_not_finite_leaves_the_weights_untouched_inside_a_graph() -> None:
    step = make_step(build_networks(MODEL), "cuda", "bf16")
    graphed = GraphedStep(step)
    for batch in make_batches()[:6]:
        graphed(*(x.cuda() for x in batch))
    before = [w.detach().clone() for w in step.weights_G + step.weights_D]
    bad = torch.full((1, 3, 64, 64), float("nan"), device="cuda")
    _, losses = graphed(bad, bad)
    assert not losses["cycle_A"].isfinite()
    assert all(w.equal(b) for w, b in zip(step.weights_G + step.weights_D, before, strict=True))
