"""A process that saves checkpoints until it is killed."""

from __future__ import annotations

import itertools
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from cyclegan_fast.checkpoint import native
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.nn import build_networks

CONFIG = TrainConfig(model=ModelConfig(generator="resnet_1blocks", ngf=8, ndf=8))


def save_for_ever(folder: Path, first_step: int, saved: Connection) -> None:
    """Saves a checkpoint of each step from the first on, whose weights and state are its number; sends the number."""
    torch.set_num_threads(1)
    networks = build_networks(CONFIG.model)
    for step in itertools.count(first_step):
        for p in networks.parameters():
            p.data.fill_(step)
        state = {"step": torch.full((40_000,), step)}
        native.save_checkpoint(
            folder, step, networks=networks, config=CONFIG, progress={"step": step}, state=state, keep=2
        )
        saved.send(step)
