"""The models that can be trained, --model: one table, which all other code asks for what sets one apart.

The networks are built from it (`cyclegan_fast.nn`), the training steps are in `cyclegan_fast.training.models`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cyclegan_fast.config import DataConfig, TrainConfig, with_settings
from cyclegan_fast.errors import UserError
from cyclegan_fast.metrics import OPPOSITE, Direction, find_metric

Scored = Literal["A", "B", "AB"]  # what a discriminator scores: images of a domain, or images of both as one

WEIGHTS = {  # settings, each with a loss that it weighs
    "lambda_gan": "G_A",
    "lambda_A": "cycle_A",
    "lambda_B": "cycle_B",
    "lambda_identity": "idt_A",
    "lambda_L1": "L1_A",
    "lambda_self": "self_A",
}

MAX_UNET = 256  # pixels: the deepest U-Net of Isola et al. 2017 halves the sides of 256 eight times
MIN_UNET = 32


@dataclass(frozen=True, kw_only=True)
class Model:
    """What sets a model apart. Networks are in the order in which they are initialised."""

    title: str
    generators: Mapping[str, Direction]
    """What each generator translates, by its name."""
    discriminators: Mapping[str, Scored]
    """What each discriminator scores, by its name."""
    losses: tuple[str, ...]
    """In the order in which they are shown; those of discriminators begin with ``D_``."""
    needs_pairs: bool = False
    draws_latents: bool = False
    """Whether it learns from images that it makes of noise, between the encoder and the decoder of its generators."""
    prefers_unet: bool = False
    """Whether its generator is a U-Net where the sides of training images allow one."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings whose defaults differ from those of CycleGAN, by name."""

    @property
    def weights(self) -> tuple[str, ...]:
        """The settings that weigh its losses, by name; that of wgangp's penalty is of any model."""
        return tuple(name for name, loss in WEIGHTS.items() if loss in self.losses)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """What it translates, as the networks name the domains."""
        return tuple(self.generators.values())

    @property
    def reconstructs(self) -> bool:
        """Whether there is a generator for the way back."""
        return len(self.generators) == 2


_BOTH: dict[str, Direction] = {"G_A": "AtoB", "G_B": "BtoA"}
_EACH: dict[str, Scored] = {"D_A": "B", "D_B": "A"}  # D_A is G_A's discriminator

MODELS: dict[str, Model] = {
    "cyclegan": Model(
        title="CycleGAN",
        generators=_BOTH,
        discriminators=_EACH,
        losses=("G_A", "G_B", "cycle_A", "cycle_B", "idt_A", "idt_B", "D_A", "D_B"),
    ),
    "pix2pix": Model(
        title="pix2pix",
        generators={"G_A": "AtoB"},
        discriminators={"D_A": "AB"},
        losses=("G_A", "L1_A", "D_A"),
        needs_pairs=True,
        prefers_unet=True,
        defaults={"paired": True, "dropout": True, "gan_mode": "vanilla", "pool_size": 0},
    ),
    "simgan": Model(
        title="SimGAN",
        generators=_BOTH,
        discriminators=_EACH,
        losses=("G_A", "G_B", "self_A", "self_B", "D_A", "D_B"),
    ),
    "feature_gan": Model(
        title="Feature loss + GAN",
        generators=_BOTH,
        discriminators=_EACH,
        losses=("G_A", "G_B", "self_A", "self_B", "D_A", "D_B"),
    ),
    "bigan": Model(
        title="BiGAN",
        generators=_BOTH,
        discriminators={"D_A": "AB"},
        losses=("G_A", "G_B", "D_A"),
        defaults={"pool_size": 0},
    ),
    "cogan": Model(
        title="CoGAN",
        generators=_BOTH,
        discriminators=_EACH,
        losses=("G_A", "G_B", "latent_A", "latent_B", "D_A", "D_B"),
        draws_latents=True,
    ),
}


def model_of(config: TrainConfig) -> Model:
    """Returns the model of a run."""
    return MODELS[config.model.model]


def directed_score(model: Model, score: str) -> str:
    """Returns the name of a score of this model: with its direction where there is one, as no mean of two is computed.

    Raises:
        UserError: There is no such score; or not of this model, which reconstructs nothing or has one direction.
    """
    needs = find_metric(score).needs
    if model.reconstructs:
        return score
    (direction,) = model.directions
    if needs == "reconstructions" or score.endswith(f"_{OPPOSITE[direction]}"):
        raise UserError(
            f"--score {score} needs a generator of the other direction, which {model.title} does not have: choose "
            f"another, such as swd or ssim"
        )
    return score if score.endswith(f"_{direction}") else f"{score}_{direction}"


def with_given(config: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """Returns `config` with other values of the settings in `given`; where they choose another model, on its defaults.

    Args:
        config: The settings to start from.
        given: Settings by name, without their groups.
    """
    before, now = config.model.model, given.get("model", config.model.model)
    if now == before:
        return with_settings(config, given)
    paper = _settings(TrainConfig())
    own = {name: paper[name] for name in ("generator", *MODELS[before].defaults)} | dict(MODELS[now].defaults)
    changed = with_settings(config, own | dict(given))
    if MODELS[now].prefers_unet and "generator" not in given and (unet := unet_for(changed.data)):
        changed = with_settings(changed, {"generator": unet})
    return changed


def _settings(config: TrainConfig) -> dict[str, Any]:
    """All settings by name, without their groups."""
    groups = [getattr(config, group.name) for group in dataclasses.fields(config)]
    return {one.name: getattr(group, one.name) for group in groups for one in dataclasses.fields(group)}


def unet_for(data: DataConfig) -> str:
    """Returns the deepest U-Net, up to unet_256, whose halvings divide the sides of training images; empty if none.

    Without a crop only the multiple of 4 is known, to which sides are rounded.
    """
    if not data.preprocess.endswith("crop"):
        return ""
    side = min(data.crop_size & -data.crop_size, MAX_UNET)  # the largest power of two that divides it
    return f"unet_{side}" if side >= MIN_UNET else ""
