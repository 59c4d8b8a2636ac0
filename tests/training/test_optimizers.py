"""The optimizers' state across versions, and the step on working weights against the step on autocast's casts."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan_fast.config import ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training import base_step
from cyclegan_fast.training.adam import Adam, LossScaler
from cyclegan_fast.training.step import CycleGANStep
from tests.training.gradients import recorded_gradients

MODEL = ModelConfig(generator="resnet_1blocks", discriminator="n_layers", n_layers=2, ngf=4, ndf=4)
OPTIM = OptimConfig()
ADAM = {"lr": OPTIM.lr, "betas": (OPTIM.beta1, OPTIM.beta2), "eps": OPTIM.eps}


def make_step(model: ModelConfig = MODEL, *, micro_batches: int = 1, **options: Any) -> CycleGANStep:
    torch.manual_seed(0)
    run = RunConfig(amp=options.pop("amp", "off"), side_by_side="off")
    config = TrainConfig(
        model=model,
        objective=ObjectiveConfig(pool_size=2, **options),
        optim=OptimConfig(grad_accumulation=micro_batches),
        run=run,
    )
    return CycleGANStep(build_networks(model), config)


def make_batches(number: int, batch: int = 1) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.rand(batch, 3, 32, 32) * 2 - 1, torch.rand(batch, 3, 32, 32) * 2 - 1) for _ in range(number)]


@pytest.mark.parametrize("lambda_gan", [1.0, 0.0])
def test_state_goes_to_torchs_adam_and_back(lambda_gan: float) -> None:
    """As torch.optim.Adam, which earlier versions used, saves and loads it; D without any update, too."""
    step = make_step(lambda_gan=lambda_gan)
    recorded = recorded_gradients(step)
    first, last = make_batches(5)[:3], make_batches(5)[3:]
    for batch in first:
        step(*batch)
    pairs = []
    for adam in (step.optimizer_G, step.optimizer_D):
        weights = [w.detach().clone().requires_grad_() for w in adam.weights]
        theirs = torch.optim.Adam(weights, **ADAM, fused=True)  # type: ignore[arg-type]
        theirs.load_state_dict(copy.deepcopy(adam.state_dict()))
        pairs.append((adam, theirs, weights))
    for batch in last:
        step(*batch)
        for adam, theirs, weights in pairs:
            for ours, weight in zip(adam.weights, weights, strict=True):
                weight.grad = recorded.get(ours)
            theirs.step()
    for adam, theirs, weights in pairs:
        for ours, weight in zip(adam.weights, weights, strict=True):
            assert (ours - weight).abs().max() <= 1e-6 * OPTIM.lr + 1e-6 * weight.abs().max()
        assert_same_state(adam, theirs)


def assert_same_state(adam: Adam, theirs: torch.optim.Adam) -> None:
    """After a way from torch to ours; torch has no state of a weight that never had a gradient."""
    saved = theirs.state_dict()
    fresh = Adam([], torch.zeros((), dtype=torch.float64), OPTIM)
    fresh.weights, fresh.working = adam.weights, adam.working
    fresh.exp_avg, fresh.exp_avg_sq = ([torch.full_like(w, 7.0).detach() for w in adam.weights] for _ in range(2))
    fresh.load_state_dict(saved)
    assert fresh.steps == adam.steps and fresh.lr == OPTIM.lr
    for name in ("exp_avg", "exp_avg_sq"):
        for ours, loaded in zip(getattr(adam, name), getattr(fresh, name), strict=True):
            assert (ours - loaded).abs().max() <= 1e-6 * (1e-12 + ours.abs().max())


def test_a_state_of_torchs_adam_without_some_weights() -> None:
    weights = [torch.nn.Parameter(torch.randn(3)) for _ in range(3)]
    theirs = torch.optim.Adam(weights, lr=torch.tensor(0.5), fused=True)
    for _ in range(2):
        weights[0].grad, weights[2].grad = torch.randn(3), torch.randn(3)
        theirs.step()
    network = torch.nn.Module()
    network.weights = torch.nn.ParameterList(weights)  # type: ignore[assignment]
    adam = Adam([network], torch.zeros((), dtype=torch.float64), OPTIM)
    adam.load_state_dict(theirs.state_dict())
    assert adam.steps == 2 and adam.lr == 0.5
    assert adam.exp_avg[0].equal(theirs.state[weights[0]]["exp_avg"]) and not adam.exp_avg[1].any()


def test_the_loss_scale_goes_to_torchs_scaler_and_back() -> None:
    device = torch.device("cpu")
    ours, theirs = LossScaler(device, enabled=True), torch.amp.GradScaler("cpu")
    theirs.scale(torch.ones(()))  # makes its tensors
    assert ours.state_dict() == theirs.state_dict()
    saved = theirs.state_dict() | {"scale": 512.0, "_growth_tracker": 3}
    ours.load_state_dict(saved)
    assert ours.state_dict() == saved and ours.scale(torch.full((), 2.0)) == 1024.0
    theirs.load_state_dict(ours.state_dict())
    assert theirs.get_scale() == 512.0
    off = LossScaler(device, enabled=False)
    off.load_state_dict(torch.amp.GradScaler("cpu", enabled=False).state_dict())
    assert off.state_dict() == {} and off.get_scale() == 1.0


CASES: dict[str, dict[str, Any]] = {
    "lsgan": {},
    "fp16": {"amp": "fp16"},
    "wgangp": {"gan_mode": "wgangp"},
    "activation checkpointing": {},
    "micro-batches": {"micro_batches": 2},
    "batch norm": {"model": dataclasses.replace(MODEL, norm="batch")},
    "unet": {"model": dataclasses.replace(MODEL, generator="unet_32")},
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_on_working_weights_equals_one_on_casts(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU and contiguous: torch's own convolutions, which autocast gives 16-bit weights, as on CUDA."""
    options = {"amp": "bf16"} | CASES[case]
    casting = make_step(**options)
    monkeypatch.setattr(base_step, "reads_working_weights", lambda config, device: True)
    working = make_step(**options)
    for step in (casting, working):
        for name in ("G_A", "G_B"):
            step.networks[name].checkpoints_activations = case == "activation checkpointing"  # type: ignore[assignment]
    assert any(w is not None for w in working.optimizer_G.working)
    for i, batch in enumerate(make_batches(4, batch=2)):
        results = []
        for step in (casting, working):
            torch.manual_seed(5)  # wgangp mixes at random
            results.append(step(*batch))
        for name, value in results[0][1].items():
            assert results[1][1][name].equal(value), f"step {i}: {name}"
    for (name, a), b in zip(casting.networks.state_dict().items(), working.networks.state_dict().values(), strict=True):
        assert a.equal(b), name
    for adam, other in ((working.optimizer_G, casting.optimizer_G), (working.optimizer_D, casting.optimizer_D)):
        assert adam.steps == other.steps > 0  # the first loss scales of fp16 overflow
        assert all(w is None or w.rounded.equal(w.weight.to(w.rounded.dtype)) for w in adam.working)


def test_another_step_takes_them_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mixed precision the same networks would leave them without gradients."""
    monkeypatch.setattr(base_step, "reads_working_weights", lambda config, device: True)
    networks = make_step(amp="bf16").networks
    step = CycleGANStep(networks, TrainConfig(model=MODEL))
    assert not any(step.optimizer_G.working)
    before = copy.deepcopy(networks.state_dict())
    step(*make_batches(1)[0])
    assert not networks["G_A"].state_dict()["stem.weight"].equal(before["G_A.stem.weight"])


def test_a_resumed_step_reads_what_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The working weights of a new step are those of its initial weights, until the first pass."""
    monkeypatch.setattr(base_step, "reads_working_weights", lambda config, device: True)
    straight, batches = make_step(amp="bf16"), make_batches(6)
    for batch in batches[:3]:
        straight(*batch)
    weights, state = copy.deepcopy(straight.networks.state_dict()), copy.deepcopy(straight.state_dict())
    resumed = make_step(amp="bf16")
    resumed.networks.load_state_dict(weights)
    resumed.load_state_dict(state)
    for batch in batches[3:]:
        losses = [step(*batch)[1] for step in (straight, resumed)]
        assert all(losses[1][name].equal(value) for name, value in losses[0].items())
    for a, b in zip(straight.networks.parameters(), resumed.networks.parameters(), strict=True):
        assert a.equal(b)
