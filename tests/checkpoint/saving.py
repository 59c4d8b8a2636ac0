"""A process that saves checkpoints until it is killed."""

from __future__ import annotations

import itertools
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from cyclegan_fast.checkpoint.background import Background
from cyclegan_fast.checkpoint.retention import Retention, Scored
from cyclegan_fast.checkpoint.saving import checkpoint_contents, write_checkpoint
from cyclegan_fast.checkpoint.snapshot import Contents, SnapshotMemory
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.nn import build_networks

CONFIG = TrainConfig(model=ModelConfig(generator="resnet_1blocks", ngf=8, ndf=8))


def save_for_ever(folder: Path, first_step: int, saved: Connection, in_background: bool) -> None:
    """Saves a checkpoint of each step from the first on, whose weights and state are its number; sends the number.

    In the background the next step's weights are there while the last ones are written, as in training.
    """
    torch.set_num_threads(1)
    networks, state = build_networks(CONFIG.model), {"step": torch.empty(40_000)}
    memory, background, keep = SnapshotMemory(torch.device("cpu")), Background("checkpoint"), Retention(newest=2)

    def write(contents: Contents) -> None:
        write_checkpoint(folder, contents, keep)
        saved.send(contents.scored.step)

    for step in itertools.count(first_step):
        for tensor in (*networks.parameters(), *state.values()):
            tensor.data.fill_(step)
        contents = checkpoint_contents(
            Scored(step), networks=networks, config=CONFIG, progress={"step": step}, state=state
        )
        if not in_background:
            write(contents)
            continue
        background.wait()
        copied = memory.copy(contents)
        background.start(lambda copied=copied: write(copied))  # type: ignore[misc]
