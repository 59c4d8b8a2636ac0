"""The training step of each model beside CycleGAN's, and the table of all."""

from __future__ import annotations

from torch import nn

from cyclegan_fast.config import ModelName, TrainConfig
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.models.bigan import BiGANStep
from cyclegan_fast.training.models.cogan import CoGANStep
from cyclegan_fast.training.models.feature_gan import FeatureGANStep
from cyclegan_fast.training.models.pix2pix import Pix2PixStep
from cyclegan_fast.training.models.simgan import SimGANStep
from cyclegan_fast.training.step import CycleGANStep

STEPS: dict[ModelName, type[TrainingStep]] = {
    "cyclegan": CycleGANStep,
    "pix2pix": Pix2PixStep,
    "simgan": SimGANStep,
    "feature_gan": FeatureGANStep,
    "bigan": BiGANStep,
    "cogan": CoGANStep,
}


def build_step(networks: nn.ModuleDict, config: TrainConfig) -> TrainingStep:
    """Builds the step of the model that `config` names, for its networks, which are on their device."""
    return STEPS[config.model.model](networks, config)
