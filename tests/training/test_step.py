"""The step against its plain restatement: losses, gradients, and the weights after 20 steps with the pool in play."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from cyclegan_fast.checkpoint.reference_format import to_reference
from cyclegan_fast.config import ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.step import CycleGANStep
from tests.plain.networks import PlainNLayerDiscriminator, PlainResnetGenerator
from tests.plain.step import PlainCycleGAN

MODEL = ModelConfig(generator="resnet_2blocks", discriminator="n_layers", n_layers=2, ngf=6, ndf=5)
NAMES = ("G_A", "G_B", "D_A", "D_B")
STEPS, POOL, SEED = 20, 4, 3
# Relative error of losses and gradients, and of the weights' movement over all steps.
TOLERANCE = {torch.float64: (1e-9, 1e-7), torch.float32: (2e-3, 2e-2)}


def make_config(**objective: object) -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        objective=ObjectiveConfig(pool_size=POOL, **objective),  # type: ignore[arg-type]
        optim=OptimConfig(lr=2e-4),
        run=RunConfig(seed=SEED),
    )


def plain_twin(networks: nn.ModuleDict, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The same weights in plain modules."""
    twins: dict[str, nn.Module] = {}
    for name in NAMES:
        twin = (
            PlainResnetGenerator(3, 3, ngf=MODEL.ngf, n_blocks=2)
            if name.startswith("G")
            else PlainNLayerDiscriminator(3, ndf=MODEL.ndf, n_layers=2)
        )
        twin.load_state_dict(to_reference(networks[name]))
        twins[name] = twin.to(dtype)
    return twins


def live_weights(net: nn.Module) -> dict[str, Tensor]:
    """The weights that training moves, under the reference's names (a bias before an instance norm is none)."""
    shadow = copy.deepcopy(net)
    for p in shadow.parameters():
        p.data.fill_(1.0 if p.requires_grad else 0.0)
    alive = to_reference(shadow)
    return {name: value for name, value in to_reference(net).items() if bool(alive[name].any())}


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12))


def images(batch: int, dtype: torch.dtype, channels_last: bool) -> Tensor:
    x = torch.rand(batch, 3, 32, 24, dtype=dtype) * 2 - 1
    return x.to(memory_format=torch.channels_last) if channels_last else x


def gradients(net: nn.Module) -> dict[str, Tensor]:
    shadow = copy.deepcopy(net)
    for ours, theirs in zip(shadow.parameters(), net.parameters(), strict=True):
        ours.data = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad.clone()
    return to_reference(shadow)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("mode", ["lsgan", "vanilla", "hinge", "wgangp"])
def test_twenty_steps_equal_the_plain_step(mode: str, dtype: torch.dtype, batch: int, channels_last: bool) -> None:
    if mode != "lsgan" and (batch == 2 or channels_last):
        pytest.skip("layouts and batches are covered by lsgan")
    torch.manual_seed(0)
    networks = build_networks(MODEL).to(dtype)
    for p in networks.parameters():  # larger weights than the initial ones, so that every term matters
        p.data.mul_(3)
    plain = plain_twin(networks, dtype)
    before = {name: live_weights(networks[name]) for name in NAMES}
    if channels_last:
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = CycleGANStep(networks, make_config(gan_mode=mode))
    reference = PlainCycleGAN(*(plain[name] for name in NAMES), mode=mode, pool_size=POOL)
    draws = {name: torch.Generator().manual_seed(2 * SEED + i) for i, name in enumerate("AB")}
    per_step, moved = TOLERANCE[dtype]
    swaps = 0

    for i in range(STEPS):
        real_A, real_B = images(batch, dtype, channels_last), images(batch, dtype, channels_last)
        rng = torch.get_rng_state()
        _, losses = step(real_A, real_B)
        torch.set_rng_state(rng)  # wgangp mixes with the same weights
        draws_A, draws_B = (torch.rand(batch, 2, generator=draws[name]) for name in "AB")
        swaps += int((draws_A[:, 0] < 0.5).sum()) if i * batch >= POOL else 0
        expected = reference.step(real_A.contiguous(), real_B.contiguous(), draws_A, draws_B)
        assert set(losses) == set(expected)
        for name, value in expected.items():
            assert relative_error(losses[name], value) <= per_step * (i + 1), f"step {i}: loss {name}"
        if i == 0:
            for name in NAMES:
                ours = gradients(networks[name])
                for key in live_weights(networks[name]):
                    theirs = plain[name].get_parameter(key).grad
                    assert theirs is not None
                    assert relative_error(ours[key], theirs) <= per_step, f"gradient of {name}.{key}"

    assert swaps > 0, "the pool never came into play"
    for name in NAMES:
        for key, ours in live_weights(networks[name]).items():
            theirs, start = plain[name].get_parameter(key).detach(), before[name][key]
            error = relative_error(ours - start, theirs - start)
            assert error <= moved, f"{name}.{key} moved differently: {error:.2e}"


def test_pairing_changes_nothing() -> None:
    torch.manual_seed(1)
    networks = build_networks(MODEL).double()
    alone = CycleGANStep(copy.deepcopy(networks), make_config())
    alone.pairs = False
    paired = CycleGANStep(networks, make_config())
    for _ in range(3):
        real = images(1, torch.float64, True), images(1, torch.float64, True)
        _, a = alone(*real)
        _, b = paired(*real)
        for name in a:
            assert relative_error(b[name], a[name]) <= 1e-10


def test_ablations_train_only_what_they_name() -> None:
    expected = {
        "gan alone": ({"lambda_A": 0.0, "lambda_B": 0.0}, {"G_A", "G_B", "D_A", "D_B"}),
        "cycle alone": ({"lambda_gan": 0.0, "lambda_identity": 0.0}, {"cycle_A", "cycle_B"}),
        "forward cycle": ({"lambda_B": 0.0, "lambda_identity": 0.0}, {"G_A", "G_B", "D_A", "D_B", "cycle_A"}),
        "backward cycle": ({"lambda_A": 0.0, "lambda_identity": 0.0}, {"G_A", "G_B", "D_A", "D_B", "cycle_B"}),
    }
    for name, (weights, losses_expected) in expected.items():
        networks = build_networks(MODEL)
        before = copy.deepcopy(networks.state_dict())
        _, losses = CycleGANStep(networks, make_config(**weights))(
            images(1, torch.float32, True), images(1, torch.float32, True)
        )
        assert set(losses) == losses_expected, name
        moved = {key.split(".")[0] for key, value in networks.state_dict().items() if not value.equal(before[key])}
        assert moved == ({"G_A", "G_B"} if name == "cycle alone" else set(NAMES)), name


def test_a_loss_that_is_not_finite_leaves_every_weight_untouched() -> None:
    networks = build_networks(MODEL)
    step = CycleGANStep(networks, make_config())
    step(images(1, torch.float32, True), images(1, torch.float32, True))
    before = copy.deepcopy(networks.state_dict())
    moments = copy.deepcopy(step.optimizer_G.state_dict()["state"])
    poisoned = images(1, torch.float32, True)
    poisoned[0, 0, 3, 3] = float("nan")
    _, losses = step(poisoned, images(1, torch.float32, True))
    assert not losses["cycle_A"].isfinite()
    assert all(value.equal(before[key]) for key, value in networks.state_dict().items())
    after = step.optimizer_G.state_dict()["state"]
    assert all(after[i][k].equal(moments[i][k]) for i in moments for k in moments[i])


def test_state_continues_bit_for_bit() -> None:
    torch.manual_seed(2)
    networks = build_networks(MODEL)
    batches = [(images(1, torch.float32, True), images(1, torch.float32, True)) for _ in range(8)]
    step = CycleGANStep(networks, make_config())
    for batch in batches[:5]:
        step(*batch)
    weights, state = copy.deepcopy(networks.state_dict()), copy.deepcopy(step.state_dict())
    for batch in batches[5:]:
        _, straight = step(*batch)
    resumed = build_networks(MODEL)
    resumed.load_state_dict(weights)
    step = CycleGANStep(resumed, make_config())
    step.load_state_dict(state)
    for batch in batches[5:]:
        _, again = step(*batch)
    assert all(again[name].equal(straight[name]) for name in straight)
    assert all(value.equal(networks.state_dict()[key]) for key, value in resumed.state_dict().items())


@pytest.mark.parametrize("amp", ["bf16"])
def test_mixed_precision_stays_close(amp: str) -> None:
    torch.manual_seed(4)
    config = make_config()
    networks = build_networks(MODEL)
    for p in networks.parameters():
        p.data.mul_(3)
    mixed = CycleGANStep(copy.deepcopy(networks), dataclasses.replace(config, run=RunConfig(seed=SEED, amp=amp)))  # type: ignore[arg-type]
    full = CycleGANStep(networks, config)
    real = images(1, torch.float32, True), images(1, torch.float32, True)
    pictures, a = mixed(*real)
    _, b = full(*real)
    assert all(t.dtype == torch.float32 for t in (*a.values(), *pictures.values()))
    for name in a:
        assert relative_error(a[name], b[name]) <= 0.05, name
