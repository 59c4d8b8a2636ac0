"""Small training steps for the tests, on a device of the mock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.config import DataConfig, ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.graphed_step import WARM_UP_STEPS, GraphedStep
from cyclegan_fast.training.step import CycleGANStep

SMALL = {"generator": "resnet_1blocks", "discriminator": "n_layers", "n_layers": 2, "ngf": 8, "ndf": 8}


def make_step(
    device: str = "cuda", *, model: Any = None, objective: Any = None, optim: Any = None, data: Any = None, **run: Any
) -> CycleGANStep:
    """A step of small networks, channels_last; `run` and the dictionaries change its settings."""
    config = TrainConfig(
        data=DataConfig(**(data or {})),
        model=ModelConfig(**(SMALL | (model or {}))),
        objective=ObjectiveConfig(**({"pool_size": 3} | (objective or {}))),
        optim=OptimConfig(**(optim or {})),
        run=RunConfig(**run),
    )
    networks = build_networks(config.model).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for generator in (networks["G_A"], networks["G_B"]):
        generator.checkpoints_activations = config.run.activation_checkpointing
    return CycleGANStep(networks, config)


def batch(device: str = "cuda", images: int = 1, height: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    """Images of A and of B."""
    a, b = (
        torch.empty(images, 3, height, width, device=device).to(memory_format=torch.channels_last) for _ in "AB"
    )  # fmt: skip
    return a, b


def warmed_up(step: CycleGANStep, batches: Callable[[], tuple[Tensor, Tensor]]) -> GraphedStep:
    """The step, before its first capture."""
    graphed = GraphedStep(step)
    for _ in range(WARM_UP_STEPS):
        graphed(*batches())
    return graphed
