"""The rivals of the paper's tables 2 and 3: each step against its formulas in plain torch, and a short run of each."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cyclegan_fast
from cyclegan_fast.checkpoint.reference_format import to_reference
from cyclegan_fast.config import ModelConfig, ObjectiveConfig, RunConfig, TrainConfig
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.errors import UserError
from cyclegan_fast.models import MODELS, WEIGHTS
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.models import build_step
from cyclegan_fast.training.models.feature_gan import random_features
from cyclegan_fast.training.settings import resolve_settings
from cyclegan_fast.training.trainer import Trainer
from tests.commands import train_settings
from tests.plain.networks import PlainNLayerDiscriminator, PlainResnetGenerator
from tests.plain.step import PlainPool, plain_gan_loss
from tests.training.gradients import recorded_gradients

STEPS, SEED, POOL, WEIGHT = 8, 3, 2, 2.5
RIVALS = ("simgan", "feature_gan", "bigan")  # and cogan, whose networks share layers: test_cogan.py
Losses = dict[str, Tensor]


class Plain:
    """The networks of a model in plain modules, and both updates of a step."""

    def __init__(self, networks: nn.ModuleDict, mode: str, pools: int) -> None:
        self.mode = mode
        self.networks: dict[str, nn.Module] = {}
        for name, network in networks.items():
            channels = 6 if len(networks) == 3 else 3
            plain = PlainResnetGenerator(3, 3, ngf=4, n_blocks=1)
            plain = plain if name.startswith("G") else PlainNLayerDiscriminator(channels, ndf=5, n_layers=2)
            plain.double().load_state_dict(to_reference(network))
            self.networks[name] = plain
        self.pools = [PlainPool(POOL, 2 * SEED + i) for i in range(pools)]
        self.G, self.D = (
            [p for n, net in self.networks.items() if n[0] == kind for p in net.parameters()] for kind in "GD"
        )
        adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
        self.optimizers = torch.optim.Adam(self.G, **adam), torch.optim.Adam(self.D, **adam)

    def weights(self, kind: str) -> list[nn.Parameter]:
        return [p for name, network in self.networks.items() if name[0] == kind for p in network.parameters()]

    def loss(self, logits: Tensor, real: bool, for_discriminator: bool = False) -> Tensor:
        return plain_gan_loss(self.mode, logits, real, for_discriminator)

    def update(self, of_G: Losses, of_D: Losses) -> Losses:
        """Both gradients are of the weights before the step."""
        for weights, losses in ((self.G, of_G), (self.D, of_D)):
            found = torch.autograd.grad(sum(losses.values()), weights, retain_graph=True, allow_unused=True)
            for weight, gradient in zip(weights, found, strict=True):
                weight.grad = gradient
        for optimizer in self.optimizers:
            optimizer.step()
        return {name: loss.detach() for name, loss in (of_G | of_D).items()}


def step_of_simgan(plain: Plain, A: Tensor, B: Tensor, features: nn.Module | None = None) -> Losses:
    net = plain.networks
    fake_B, fake_A = net["G_A"](A), net["G_B"](B)
    compare = features or nn.Identity()
    of_G = {
        "G_A": plain.loss(net["D_A"](fake_B), True),
        "G_B": plain.loss(net["D_B"](fake_A), True),
        "self_A": WEIGHT * (compare(fake_B) - compare(A)).abs().mean(),
        "self_B": WEIGHT * (compare(fake_A) - compare(B)).abs().mean(),
    }
    pool_A, pool_B = plain.pools
    of_D = {}
    for name, real, fake, pool in (("D_A", B, fake_B, pool_B), ("D_B", A, fake_A, pool_A)):
        pooled = pool.query(fake.detach())
        of_D[name] = 0.5 * (plain.loss(net[name](real), True, True) + plain.loss(net[name](pooled), False, True))
    return plain.update(of_G, of_D)


def step_of_feature_gan(plain: Plain, A: Tensor, B: Tensor) -> Losses:
    weights = [layer.weight for layer in random_features(3).double().layers]

    def features(x: Tensor) -> Tensor:
        for weight in weights:
            x = torch.relu(F.conv2d(x, weight, stride=2, padding=1))
        return x

    return step_of_simgan(plain, A, B, features)  # type: ignore[arg-type]


def step_of_bigan(plain: Plain, A: Tensor, B: Tensor) -> Losses:
    net, (pool_A, pool_B) = plain.networks, plain.pools
    from_A = torch.cat([A, net["G_A"](A)], 1)
    from_B = torch.cat([net["G_B"](B), B], 1)
    of_G = {"G_A": plain.loss(net["D_A"](from_A), True), "G_B": plain.loss(net["D_A"](from_B), False)}
    old_A, old_B = pool_A.query(from_A.detach()), pool_B.query(from_B.detach())
    on_B, on_A = plain.loss(net["D_A"](old_B), True, True), plain.loss(net["D_A"](old_A), False, True)
    return plain.update(of_G, {"D_A": 0.5 * (on_B + on_A)})


PLAIN_STEPS = {"simgan": step_of_simgan, "feature_gan": step_of_feature_gan, "bigan": step_of_bigan}


def config(model: str, **objective: object) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(model=model, generator="resnet_1blocks", discriminator="n_layers", n_layers=2, ngf=4, ndf=5),  # type: ignore[arg-type]
        objective=ObjectiveConfig(**({"lambda_self": WEIGHT, "pool_size": POOL} | objective)),  # type: ignore[arg-type]
        run=RunConfig(seed=SEED),
    )


def networks_of(found: TrainConfig) -> nn.ModuleDict:
    torch.manual_seed(0)
    networks = build_networks(found.model).double()
    for p in networks.parameters():  # larger weights than the initial ones, so that every term matters
        p.data.mul_(3)
    return networks


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


@pytest.mark.parametrize(
    ("model", "mode"), [*((rival, "lsgan") for rival in RIVALS), ("bigan", "vanilla"), ("bigan", "hinge")]
)
def test_steps_in_float64_equal_the_formulas(model: str, mode: str) -> None:
    found = config(model, gan_mode=mode)
    networks = networks_of(found)
    plain = Plain(networks, mode, pools=2)
    step = build_step(networks, found)
    recorded = recorded_gradients(step)
    torch.manual_seed(1)
    for i in range(STEPS):
        A, B = (torch.rand(1, 3, 24, 24, dtype=torch.float64) * 2 - 1 for _ in range(2))
        images, losses = step(A, B)
        expected = PLAIN_STEPS[model](plain, A, B)
        assert list(losses) == list(MODELS[model].losses) and {"fake_A", "fake_B"} <= images.keys()
        for name, value in expected.items():
            assert relative_error(losses[name], value) <= 1e-9, f"step {i}: loss {name}"
        for name, network in networks.items():
            compare_gradients(network, recorded, plain.networks[name], f"step {i}: {name}")
    assert all(pool.swaps for pool in plain.pools), "a pool never came into play"


def compare_gradients(network: nn.Module, recorded: dict[nn.Parameter, Tensor], plain: nn.Module, where: str) -> None:
    shadow = copy.deepcopy(network)
    for ours, theirs in zip(shadow.parameters(), network.parameters(), strict=True):
        assert not theirs.requires_grad or theirs in recorded, f"{where}: a weight without a gradient"
        ours.data = recorded.get(theirs, torch.zeros_like(theirs))
    weights = dict(plain.named_parameters())
    for key, gradient in to_reference(shadow).items():
        if gradient.any():  # an instance norm cancels the bias before it
            assert relative_error(gradient, weights[key].grad) <= 1e-9, f"{where}.{key}"  # type: ignore[arg-type]


def test_random_features_are_the_same_in_every_run_and_draw_nothing() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = random_features(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), random_features(3).parameters(), strict=True))
    x = torch.randn(4, 3, 64, 64)
    assert 0.2 < float(first(x).std() / x.std()) < 5 and not any(p.requires_grad for p in first.parameters())


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes") / "data"
    render_dataset(root, 32, 6, 3, seed=0)
    return root


def train(scenes: Path, out: Path, flags: str) -> Trainer:
    size = (
        "--load-size 34 --crop-size 32 --generator resnet_1blocks --ngf 4 --ndf 4 --discriminator n_layers --n-layers 2"
    )
    words = f"--data {scenes} --out {out} {size} --device cpu --log-every 1 --sample-every 0 {flags}"
    trainer = Trainer(train_settings(words.split()))
    trainer.run()
    return trainer


def losses(out: Path) -> list[dict[str, float]]:
    records = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    return [record["losses"] for record in records if "losses" in record]


@pytest.mark.parametrize("model", [*RIVALS, "cogan"])
def test_a_run_of_each_trains_scores_resumes_exactly_and_translates(model: str, scenes: Path, tmp_path: Path) -> None:
    flags = f"--model {model} --amp --ema 0.9 --grad-accumulation 2"
    train(scenes, tmp_path / "whole", f"{flags} --max-steps 4 --eval-every 0")
    train(scenes, tmp_path / "parts", f"{flags} --max-steps 2 --eval-every 0")
    resumed = train(scenes, tmp_path / "parts", f"{flags} --max-steps 4 --eval-every 4 --resume auto")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert [list(found) for found in losses(tmp_path / "whole")] == [list(MODELS[model].losses)] * 4
    assert resumed.evaluator.newest is not None and "swd_BtoA" in resumed.evaluator.newest["scores"]
    for direction in ("AtoB", "BtoA"):
        engine = cyclegan_fast.load_engine(tmp_path / "whole", direction=direction)  # type: ignore[arg-type]
        assert cyclegan_fast.infer(engine, next((scenes / f"test{direction[0]}").iterdir())).size == (32, 32)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model simgan --channels-A 1", "--model simgan compares an output with its input"),
        ("--model bigan --preprocess scale_width", "--model bigan joins images of A and B, of one size"),
        ("--model cogan --preprocess scale_width", "--model cogan makes images of A and B of one size"),
        (
            "--model cogan --generator unet_32",
            "--model cogan makes images of what stands between .* use --generator resnet_<N>blocks, got unet_32",
        ),
        ("--model cogan --compile", "--compile: CoGAN runs parts of its generators, and it compiles whole networks"),
        ("--model cogan --lambda-gan 0", "nothing to train: --lambda-gan is 0, and CoGAN has no other loss"),
        ("--model bigan --lambda-gan 0", "nothing to train: --lambda-gan is 0, and BiGAN has no other loss"),
        (
            "--model simgan --lambda-gan 0 --lambda-self 0",
            "nothing to train: .* --lambda-self are both 0",
        ),
    ],
)
def test_settings_that_cannot_be_trained_with(scenes: Path, tmp_path: Path, flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(scenes, tmp_path / "run", flags)


@pytest.mark.parametrize("model", MODELS)
def test_the_weights_of_a_model_are_those_that_change_its_losses(model: str, caplog: pytest.LogCaptureFixture) -> None:
    """And one that changes none is named in the log, where it was given."""
    caplog.set_level(logging.INFO)

    def losses(**changes: float) -> dict[str, float]:
        config = TrainConfig(
            model=ModelConfig(model=model, generator="resnet_1blocks", ngf=4, ndf=4),  # type: ignore[arg-type]
            objective=ObjectiveConfig(**changes),  # type: ignore[arg-type]
        )
        resolved = resolve_settings(config, torch.device("cpu"))
        torch.manual_seed(0)
        step = build_step(build_networks(resolved.model), resolved)
        A, B = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
        return {name: float(loss) for name, loss in step(A, B)[1].items()}

    plain = losses()
    assert "no effect" not in caplog.text and set(WEIGHTS) < {f.name for f in dataclasses.fields(ObjectiveConfig)}
    for name in WEIGHTS:
        caplog.clear()
        has_effect = losses(**{name: 2 * getattr(ObjectiveConfig(), name)}) != plain
        assert has_effect is (name in MODELS[model].weights)
        line = f"no effect: --model {model} has no loss that --{name.replace('_', '-')} weighs"
        assert (line in caplog.messages) is not has_effect
    caplog.clear()
    assert losses(lambda_gp=1.0) == plain and "no effect: --lambda-gp" in caplog.text
    penalised = losses(gan_mode="wgangp")  # type: ignore[arg-type]
    caplog.clear()
    assert losses(gan_mode="wgangp", lambda_gp=1.0) != penalised  # type: ignore[arg-type]
    assert "no effect" not in caplog.text
