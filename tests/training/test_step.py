"""The step against its plain restatement: losses, gradients, and the weights after 20 steps with the pool in play."""

from __future__ import annotations

import copy
import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cyclegan_fast import ops
from cyclegan_fast.checkpoint.reference_format import to_reference
from cyclegan_fast.config import ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.step import CycleGANStep
from tests.plain.networks import PlainNLayerDiscriminator, PlainResnetGenerator
from tests.plain.step import PlainCycleGAN
from tests.training.gradients import recorded_gradients

MODEL = ModelConfig(generator="resnet_2blocks", discriminator="n_layers", n_layers=2, ngf=6, ndf=5)
NAMES = ("G_A", "G_B", "D_A", "D_B")
STEPS, POOL, SEED = 20, 4, 3


def make_config(eps: float = 1e-8, **objective: object) -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        objective=ObjectiveConfig(pool_size=POOL, **objective),  # type: ignore[arg-type]
        optim=OptimConfig(lr=2e-4, eps=eps),
        run=RunConfig(seed=SEED),
    )


def plain_copies(networks: nn.ModuleDict, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The same weights in plain modules."""
    copies: dict[str, nn.Module] = {}
    for name in NAMES:
        plain = (
            PlainResnetGenerator(3, 3, ngf=MODEL.ngf, n_blocks=2)
            if name.startswith("G")
            else PlainNLayerDiscriminator(3, ndf=MODEL.ndf, n_layers=2)
        )
        plain.to(dtype).load_state_dict(to_reference(networks[name]))
        copies[name] = plain
    return copies


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


def by_reference_name(net: nn.Module, gradients: dict[nn.Parameter, Tensor]) -> dict[str, Tensor]:
    shadow = copy.deepcopy(net)
    for ours, theirs in zip(shadow.parameters(), net.parameters(), strict=True):
        ours.data = gradients[theirs] if theirs in gradients else torch.zeros_like(theirs)
    return to_reference(shadow)


@dataclass
class Trace:
    """What a run of 20 steps showed."""

    losses: list[dict[str, Tensor]]
    gradients: dict[str, Tensor]  # of the first step
    movement: dict[str, Tensor]  # of each weight, over all steps


def initial_networks() -> nn.ModuleDict:
    torch.manual_seed(0)
    networks = build_networks(MODEL).double()
    for p in networks.parameters():  # larger weights than the initial ones, so that every term matters
        p.data.mul_(3)
    return networks


def batches(batch: int, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(seed)
    return [(images(batch, torch.float64, False), images(batch, torch.float64, False)) for _ in range(STEPS)]


def run_ours(mode: str, dtype: torch.dtype, batch: int, channels_last: bool, eps: float = 1e-8, seed: int = 1) -> Trace:
    networks = initial_networks().to(dtype)
    before = {name: live_weights(networks[name]) for name in NAMES}
    layout = torch.channels_last if channels_last else torch.contiguous_format
    networks.to(memory_format=layout)  # type: ignore[call-overload]
    step = CycleGANStep(networks, make_config(eps, gan_mode=mode))
    recorded = recorded_gradients(step)
    losses, grads = [], {}
    torch.manual_seed(2)  # wgangp mixes at random
    for i, (real_A, real_B) in enumerate(batches(batch, seed)):
        losses.append(step(real_A.to(dtype, memory_format=layout), real_B.to(dtype, memory_format=layout))[1])
        if i == 0:
            for name in NAMES:
                found = by_reference_name(networks[name], recorded)
                grads |= {f"{name}.{key}": found[key] for key in before[name]}
    movement = {
        f"{name}.{key}": value - before[name][key]
        for name in NAMES
        for key, value in live_weights(networks[name]).items()
    }
    return Trace(losses, grads, movement)


@functools.cache
def run_plain(mode: str, dtype: torch.dtype, batch: int, eps: float = 1e-8, seed: int = 1) -> Trace:
    start_networks = initial_networks()
    plain = plain_copies(start_networks, dtype)
    alive = {name: list(live_weights(start_networks[name])) for name in NAMES}
    before = {f"{name}.{key}": plain[name].get_parameter(key).detach().clone() for name in NAMES for key in alive[name]}
    seeds = 2 * SEED, 2 * SEED + 1
    networks = (plain[name] for name in NAMES)
    reference = PlainCycleGAN(*networks, mode=mode, pool_size=POOL, pool_seeds=seeds, eps=eps)
    losses, grads = [], {}
    torch.manual_seed(2)
    for i, (real_A, real_B) in enumerate(batches(batch, seed)):
        losses.append(reference.step(real_A.to(dtype), real_B.to(dtype)))
        if i == 0:
            grads = {key: plain[key[:3]].get_parameter(key[4:]).grad.clone() for key in before}  # type: ignore[union-attr]
    assert reference.pool_A.swaps and reference.pool_B.swaps, "a pool never came into play"
    movement = {key: plain[key[:3]].get_parameter(key[4:]).detach() - start for key, start in before.items()}
    return Trace(losses, grads, movement)


def together(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[key].double().flatten() for key in sorted(tensors)])


@pytest.mark.parametrize(
    ("mode", "batch", "channels_last"),
    [
        ("lsgan", 1, False),
        ("lsgan", 1, True),
        ("lsgan", 2, True),
        ("vanilla", 1, True),
        ("hinge", 1, True),
        ("wgangp", 2, True),
    ],
)
def test_twenty_steps_in_float64_equal_the_plain_step(mode: str, batch: int, channels_last: bool) -> None:
    ours, plain = run_ours(mode, torch.float64, batch, channels_last), run_plain(mode, torch.float64, batch)
    for i, (got, expected) in enumerate(zip(ours.losses, plain.losses, strict=True)):
        assert set(got) == set(expected)
        for name, value in expected.items():
            assert relative_error(got[name], value) <= 1e-9, f"step {i}: loss {name}"
    for key, value in plain.gradients.items():
        if value.norm() < 1e-12:  # wgangp's discriminators do not feel their last bias: Adam moves it by rounding alone
            assert mode == "wgangp" and ours.gradients[key].norm() < 1e-12
            continue
        assert relative_error(ours.gradients[key], value) <= 1e-9, f"gradient of {key}"
        assert relative_error(ours.movement[key], plain.movement[key]) <= 1e-6, f"movement of {key}"


def continue_in_float32(step: CycleGANStep, exact: CycleGANStep) -> None:
    """Gives `step` the weights, moments and pools of `exact`, rounded."""
    step.networks.load_state_dict(exact.networks.state_dict())
    state = exact.state_dict()
    for name in ("pool_A", "pool_B"):
        if state[name]["images"] is not None:
            state[name] |= {"images": state[name]["images"].float()}
    step.load_state_dict(state)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_each_of_twenty_steps_in_float32_is_near_to_float64(channels_last: bool) -> None:
    """Each begins where the exact run is, so that no step inherits an error.

    A ReLU whose input comes so near to zero that rounding decides its sign changes a gradient by more than rounding
    does: seen in two of twenty steps, so half of them must do. It changes no loss.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    networks, dtypes = initial_networks().to(memory_format=layout), (torch.float64, torch.float32)  # type: ignore[call-overload]
    exact, step = (CycleGANStep(copy.deepcopy(networks).to(dtype), make_config()) for dtype in dtypes)
    recorded = [recorded_gradients(one) for one in (exact, step)]
    errors = []
    for i, batch in enumerate(batches(1)):
        continue_in_float32(step, exact)
        (_, expected), (_, got) = (
            one(*(x.to(dtype, memory_format=layout) for x in batch))
            for one, dtype in zip((exact, step), dtypes, strict=True)
        )
        for name, value in expected.items():
            assert relative_error(got[name], value) <= 1e-5, f"step {i}: loss {name}"
        exact_gradients, gradients = (torch.cat([g.flatten().double() for g in one.values()]) for one in recorded)
        errors.append(float(relative_error(gradients, exact_gradients)))
    assert len(errors) == STEPS and sorted(errors)[STEPS // 2] <= 1e-4, errors


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_twenty_steps_in_float32_are_as_near_to_float64_as_the_plain_step(channels_last: bool) -> None:
    """Twenty steps of Adam amplify rounding, so plain float32's own distance to float64 is the measure.

    Adam's epsilon is large, about a hundredth of a gradient: with a small one its first move is the gradient's sign,
    and a gradient near zero, whose sign rounding decides, would part two correct runs by far more than rounding does.
    So would a ReLU whose input comes that near to zero: with every other seed some run meets one within 20 steps, the
    plain one too, and any change of rounding says which. A mistake shows with every seed, so one of several must do.
    """
    faults = []
    for seed in range(10, 18):
        faults.append(faults_in_float32(channels_last, seed))
        if not faults[-1]:
            return
    pytest.fail(f"not as near with any seed: {faults}")


def faults_in_float32(channels_last: bool, seed: int) -> list[str]:
    """Where 20 steps are farther from float64 than the plain step's allow."""
    eps = 1e-2
    exact, plain = run_plain("lsgan", torch.float64, 1, eps, seed), run_plain("lsgan", torch.float32, 1, eps, seed)
    ours = run_ours("lsgan", torch.float32, 1, channels_last, eps, seed)
    errors = {  # what, how far it is, how far it may be
        f"first step: loss {name}": (relative_error(ours.losses[0][name], value), 1e-5)
        for name, value in exact.losses[0].items()
    }
    errors["gradients"] = relative_error(together(ours.gradients), together(exact.gradients)), 1e-4
    plain_distance = relative_error(together(plain.movement), together(exact.movement))
    errors["movement"] = relative_error(together(ours.movement), together(exact.movement)), 3 * plain_distance + 1e-4
    for i, (got, expected) in enumerate(zip(ours.losses, exact.losses, strict=True)):
        for name, value in expected.items():
            allowed = 10 * relative_error(plain.losses[i][name], value) + 1e-2
            errors[f"step {i}: loss {name}"] = relative_error(got[name], value), allowed
    return [
        f"{what}: {error:.2g} of {allowed:.2g}" for what, (error, allowed) in errors.items() if not error <= allowed
    ]


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


@pytest.mark.parametrize("mode", ["lsgan", "vanilla", "hinge"])
def test_micro_batches_equal_one_batch(mode: str) -> None:
    """The pools of four come into play too: they see the images in the same order."""
    together, apart = (CycleGANStep(initial_networks(), accumulating(n, gan_mode=mode)) for n in (1, 3))
    for i, (real_A, real_B) in enumerate(batches(6)):
        images, expected = together(real_A, real_B)
        apart_images, losses = apart(real_A, real_B)
        for name, value in expected.items():
            assert relative_error(losses[name], value) <= 1e-9, f"step {i}: loss {name}"
        for name, image in images.items():
            assert apart_images[name].shape == image.shape
            assert relative_error(apart_images[name], image) <= 1e-7, f"step {i}: {name}"
    for a, b in zip(apart.networks.parameters(), together.networks.parameters(), strict=True):
        assert relative_error(a.detach(), b.detach()) <= 1e-8


def accumulating(micro_batches: int, **objective: object) -> TrainConfig:
    optim = OptimConfig(lr=2e-4, grad_accumulation=micro_batches)
    return dataclasses.replace(make_config(**objective), optim=optim)


def test_micro_batches_must_divide_the_batch() -> None:
    step = CycleGANStep(build_networks(MODEL), accumulating(3))
    with pytest.raises(UserError, match="3 equal micro-batches cannot be made of 4 images"):
        step(images(4, torch.float32, True), images(4, torch.float32, True))


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


@pytest.mark.fault(10)
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


@pytest.mark.parametrize(("good", "bad"), [("G", "D"), ("D", "G")])
def test_a_phase_that_is_not_finite_leaves_its_own_weights_untouched(good: str, bad: str) -> None:
    """And those alone: each optimizer looks at its own losses."""
    networks = build_networks(MODEL)
    step = CycleGANStep(networks, make_config())
    before = copy.deepcopy(networks.state_dict())
    name = "discriminator_pass" if bad == "D" else "generator_pass"
    gradients_of = getattr(step, name)

    def poisoned(*args: object) -> tuple:  # type: ignore[type-arg]
        *first, losses, gradients = gradients_of(*args)
        worse = losses * torch.nan if bad == "D" else {key: loss * torch.nan for key, loss in losses.items()}
        return *first, worse, gradients

    setattr(step, name, poisoned)
    step(images(1, torch.float32, True), images(1, torch.float32, True))
    moved = {key[0] for key, value in networks.state_dict().items() if not value.equal(before[key])}
    assert moved == {good}


class WeightGradients(TorchDispatchMode):
    """Collects the shapes of the convolutions' weight gradients that are computed while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        if name == "conv2d_weight_grad":
            self.shapes.append(tuple(result.shape))
        if name == "convolution_backward" and result[1] is not None:
            self.shapes.append(tuple(result[1].shape))
        return result


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_the_generators_pass_computes_no_weight_gradient_of_a_discriminator(channels_last: bool) -> None:
    networks = build_networks(MODEL)
    networks.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)  # type: ignore[call-overload]
    step = CycleGANStep(networks, make_config())
    real = images(1, torch.float32, channels_last), images(1, torch.float32, channels_last)
    with WeightGradients() as found:
        step.generator_pass(step.cycle_A, *real, torch.ones(()))
        assert (6, 3, 7, 7) in found.shapes and not [shape for shape in found.shapes if shape[2:] == (4, 4)]
        step.discriminator_pass(networks["D_A"], *real, torch.ones(()))
    assert [shape for shape in found.shapes if shape[2:] == (4, 4)]  # those of the discriminators alone have this size


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
    translated, a = mixed(*real)
    _, b = full(*real)
    assert all(t.dtype == torch.float32 for t in (*a.values(), *translated.values()))
    for name in a:
        assert relative_error(a[name], b[name]) <= 0.05, name


@pytest.mark.parametrize("channels_last", [False, True])
def test_mixed_precision_without_the_extension(channels_last: bool) -> None:
    """torch's own operators, which autocast lets answer in float32, take the place of ours type for type."""
    config = make_config()
    networks = build_networks(MODEL)
    if channels_last:
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = CycleGANStep(networks, dataclasses.replace(config, run=dataclasses.replace(config.run, amp="bf16")))
    with ops.use_reference():
        _, losses = step(images(2, torch.float32, channels_last), images(2, torch.float32, channels_last))
    assert all(bool(loss.isfinite().all()) for loss in losses.values())
