"""CoGAN: its step against really shared modules in plain torch, and copies of shared layers that stay equal."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cyclegan_fast.checkpoint.reference_format import to_reference
from cyclegan_fast.config import OptimConfig, with_settings
from cyclegan_fast.models import MODELS
from cyclegan_fast.training import base_step
from cyclegan_fast.training.adam import Gradients
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.models import build_step
from cyclegan_fast.training.models.cogan import CoGANStep, shared_layers
from tests.plain.networks import PlainNLayerDiscriminator, PlainResnetGenerator
from tests.plain.step import PlainPool, plain_gan_loss
from tests.training.models.test_rivals import POOL, SEED, STEPS, config, networks_of, relative_error
from tests.training.test_step import live_weights

ENCODER = slice(0, 10)  # of the layers of a plain generator
BLOCKS = slice(10, 11)  # one
DECODER = slice(11, None)


class PlainCoGAN:
    """Modules that are shared, not copied: those of B are made of those of A."""

    def __init__(self, networks: nn.ModuleDict, mode: str) -> None:
        self.mode = mode
        G_A, G_B = (
            self.plain(networks[name], PlainResnetGenerator(3, 3, ngf=4, n_blocks=1)) for name in ("G_A", "G_B")
        )
        self.encoder_A, self.blocks, self.decoder_B = (G_A.model[part] for part in (ENCODER, BLOCKS, DECODER))
        self.encoder_B, self.decoder_A = G_B.model[ENCODER], G_B.model[DECODER]
        self.D_A, self.D_B = (
            self.plain(networks[name], PlainNLayerDiscriminator(3, ndf=5, n_layers=2)) for name in ("D_A", "D_B")
        )
        for i in range(1, len(self.D_A.model)):
            self.D_B.model[i] = self.D_A.model[i]
        self.pool_A, self.pool_B = PlainPool(POOL, 2 * SEED), PlainPool(POOL, 2 * SEED + 1)
        adam: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}
        parts = (self.encoder_A, self.encoder_B, self.blocks, self.decoder_A, self.decoder_B)
        self.optimizer_G = torch.optim.Adam(itertools.chain(*(part.parameters() for part in parts)), **adam)
        of_D = dict.fromkeys([*self.D_A.parameters(), *self.D_B.parameters()])
        self.optimizer_D = torch.optim.Adam(of_D, **adam)

    @staticmethod
    def plain(network: nn.Module, like: Any) -> Any:
        like.double().load_state_dict(to_reference(network))
        return like

    def loss(self, logits: Tensor, real: bool, for_discriminator: bool = False) -> Tensor:
        return plain_gan_loss(self.mode, logits, real, for_discriminator)

    def step(self, A: Tensor, B: Tensor) -> dict[str, Tensor]:
        z = torch.randn(len(A), 16, A.shape[2] // 4, A.shape[3] // 4, dtype=A.dtype).clamp(min=0)
        fake_A, fake_B = self.decoder_A(self.blocks(z)), self.decoder_B(self.blocks(z))
        losses = {
            "G_A": self.loss(self.D_A(fake_B), True),
            "G_B": self.loss(self.D_B(fake_A), True),
            "latent_A": (self.encoder_A(fake_A.detach()) - z).abs().mean(),
            "latent_B": (self.encoder_B(fake_B.detach()) - z).abs().mean(),
        }
        self.optimizer_G.zero_grad()
        sum(losses.values()).backward(inputs=[w for group in self.optimizer_G.param_groups for w in group["params"]])
        old_B, old_A = self.pool_B.query(fake_B.detach()), self.pool_A.query(fake_A.detach())
        for name, D, real, old in (("D_A", self.D_A, B, old_B), ("D_B", self.D_B, A, old_A)):
            losses[name] = 0.5 * (self.loss(D(real), True, True) + self.loss(D(old), False, True))
        self.optimizer_D.zero_grad()
        (losses["D_A"] + losses["D_B"]).backward(inputs=list(self.optimizer_D.param_groups[0]["params"]))
        self.optimizer_G.step()
        self.optimizer_D.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def networks(self) -> dict[str, nn.Module]:
        """As the package names them."""
        of_A, of_B = (nn.Module(), nn.Module())
        of_A.model = nn.Sequential(*self.encoder_A, *self.blocks, *self.decoder_B)
        of_B.model = nn.Sequential(*self.encoder_B, *self.blocks, *self.decoder_A)
        return {"G_A": of_A, "G_B": of_B, "D_A": self.D_A, "D_B": self.D_B}


def batches(count: int, images: int = 1) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(count, 2, images, 3, 24, 24, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("mode", ["lsgan", "vanilla", "hinge"])
def test_steps_in_float64_equal_those_of_shared_modules(mode: str) -> None:
    found = config("cogan", gan_mode=mode)
    networks = networks_of(found)
    step = build_step(networks, found)
    plain = PlainCoGAN(networks, mode)
    for i, (A, B) in enumerate(batches(STEPS)):
        results = []
        for train in (step, plain.step):
            torch.manual_seed(100 + i)  # of the noise
            results.append(train(A, B))
        (images, losses), expected = results
        assert list(losses) == list(MODELS["cogan"].losses) and {"fake_A", "fake_B"} <= images.keys()
        for name, value in expected.items():
            assert relative_error(losses[name], value) <= 1e-9, f"step {i}: loss {name}"
        for name, network in plain.networks().items():
            weights = dict(network.named_parameters())
            for key, weight in live_weights(networks[name]).items():
                assert relative_error(weight, weights[key].detach()) <= 1e-9, f"step {i}: {name}.{key}"
    assert plain.pool_A.swaps and plain.pool_B.swaps, "a pool never came into play"


def differing_copies(networks: Any) -> list[str]:
    """The shared layers whose copies differ in a bit."""
    pairs = [
        (f"{first}.{name}", weight, other)
        for first, second in (("G_A", "G_B"), ("D_A", "D_B"))
        if first in networks
        for layers in shared_layers(networks[first], networks[second])
        for (name, weight), other in zip(layers[0].named_parameters(), layers[1].parameters(), strict=True)
    ]
    assert pairs
    return [name for name, weight, other in pairs if not weight.equal(other)]


CASES: dict[str, dict[str, Any]] = {
    "averages and micro-batches": {"ema": 0.9, "grad_accumulation": 2},
    "working weights": {"amp": "bf16", "ema": 0.9},
    "working weights, micro-batches": {"amp": "bf16", "grad_accumulation": 2},
    "batch norm": {"norm": "batch", "ema": 0.9},
    "dropout, penalty": {"dropout": True, "gan_mode": "wgangp"},
    "no norm, pixels": {"norm": "none", "discriminator": "pixel"},
    "channels": {"channels_A": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_copies_of_shared_layers_stay_equal(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_step, "reads_working_weights", lambda config, device: config.run.amp != "off")
    found = with_settings(config("cogan"), CASES[case])
    networks = networks_of(found).float()
    step = build_step(networks, found)
    assert bool(any(step.optimizer_G.working)) == ("amp" in CASES[case])
    before = copy.deepcopy(networks["G_A"].state_dict())
    for A, B in batches(4, images=2).float():
        step(A[:, : found.model.channels_A], B)
        assert not differing_copies(networks)
        assert not differing_copies(step.inference_networks)
    for adam in (step.optimizer_G, step.optimizer_D):
        assert all(w is None or w.read().equal(w.weight.to(torch.bfloat16)) for w in adam.working)
    trained = [name for name, w in networks["G_A"].named_parameters() if w.requires_grad]
    assert not any(before[name].equal(networks["G_A"].state_dict()[name]) for name in trained)
    for layer, other in shared_layers(*(step.inference_networks[name] for name in ("G_A", "G_B"))):
        assert all(a.equal(b) for a, b in zip(layer.buffers(), other.buffers(), strict=True))


class RingReduction:
    """Its means differ in the last bits from place to place, as those of a ring of ranks may."""

    def __init__(self) -> None:
        self.places = itertools.count()

    def begin(self, weights: list[Tensor], *gradients: Gradients) -> Gradients:
        (found,) = gradients
        return [None if g is None else g * (1 + next(self.places) * 2**-50) for g in found]

    def mean_of(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return values

    def average(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            tensor.mul_(1 + next(self.places) * 2**-50)

    def wait(self) -> None:
        pass


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_copies_stay_equal_where_sums_over_ranks_depend_on_their_order(norm: str) -> None:
    found = with_settings(config("cogan"), {"norm": norm, "ema": 0.9})
    step = build_step(networks_of(found), found)
    step.reduction = RingReduction()  # type: ignore[assignment]
    for A, B in batches(2):
        step(A, B)
        for networks in (step.networks, step.inference_networks):
            assert not differing_copies(networks)
            for layer, other in shared_layers(networks["G_A"], networks["G_B"]):
                assert all(a.equal(b) for a, b in zip(layer.buffers(), other.buffers(), strict=True))
    assert bool(step.running_statistics) == (norm == "batch")


def test_micro_batches_equal_the_batch() -> None:
    steps: list[TrainingStep] = []
    for optim in (OptimConfig(batch_size=2), OptimConfig(grad_accumulation=2)):
        found = dataclasses.replace(config("cogan", pool_size=0), optim=optim)
        steps.append(build_step(networks_of(found), found))
    for i, (A, B) in enumerate(batches(2, images=2)):
        results = []
        for step in steps:
            torch.manual_seed(100 + i)
            results.append(step(A, B))
        for expected, got in zip(*results, strict=True):
            assert got.keys() == expected.keys()
            assert all(relative_error(got[name], value) <= 1e-9 for name, value in expected.items())
    for (name, a), b in zip(steps[0].networks.named_parameters(), steps[1].networks.parameters(), strict=True):
        assert relative_error(a.detach(), b.detach()) <= 1e-9, name


def test_it_starts_from_the_weights_of_a_model_that_shares_nothing() -> None:
    step = build_step(networks_of(config("cogan")), with_settings(config("cogan"), {"ema": 0.9}))
    other = networks_of(config("cyclegan"))
    step.networks.load_state_dict(other.state_dict())
    assert differing_copies(step.networks)
    step.restart()
    assert not differing_copies(step.networks) and not differing_copies(step.inference_networks)
    assert step.networks["G_A"].state_dict()["blocks.0.conv1.weight"].equal(other["G_A"].blocks[0].conv1.weight)
    assert step.networks["G_B"].state_dict()["head.weight"].equal(other["G_B"].head.weight)


def test_latents_are_what_an_encoder_can_end_with() -> None:
    """They have its shape and layout, and no negative values; half of them are 0, as after a norm and a ReLU."""
    found = config("cogan")
    step = build_step(networks_of(found), found)
    assert isinstance(step, CoGANStep)
    images = torch.rand(3, 3, 32, 48, dtype=torch.float64).to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    z, other = step.draw_latents(images), step.draw_latents(images)
    encoded = step.G_A.encode(images)[1].detach()
    assert z.shape == encoded.shape == (3, 16, 8, 12) and z.dtype == encoded.dtype
    assert z.is_contiguous(memory_format=torch.channels_last)
    assert not z.equal(other) and not z[0].equal(z[1])
    for values in (z, encoded):
        assert values.min() == 0 and 0.4 < float((values == 0).double().mean()) < 0.6
        assert 0.45 < float(values.square().mean()) < 0.55


def test_a_resumed_step_goes_on_exactly() -> None:
    found = with_settings(config("cogan"), {"ema": 0.9})
    straight, resumed = (build_step(networks_of(found), found) for _ in range(2))
    images = batches(4)
    for A, B in images[:2]:
        straight(A, B)
    resumed.networks.load_state_dict(straight.networks.state_dict())
    for name, network in resumed.inference_networks.items():
        network.load_state_dict(straight.inference_networks[name].state_dict())
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    state = torch.get_rng_state()
    for step in (straight, resumed):
        torch.set_rng_state(state)
        for A, B in images[2:]:
            step(A, B)
        assert not differing_copies(step.networks) and not differing_copies(step.inference_networks)
    for name, weight in straight.networks.state_dict().items():
        assert resumed.networks.state_dict()[name].equal(weight), name
