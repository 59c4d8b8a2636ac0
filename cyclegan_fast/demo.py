"""python -m cyclegan_fast.demo: the whole way, from rendered scenes to a report with pictures and scores."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclegan_fast.cli import run_command
from cyclegan_fast.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig, to_dict
from cyclegan_fast.errors import UserError

SIZE = 64  # pixels
TRAIN_IMAGES, TEST_IMAGES = 1000, 100  # per domain
STEPS_PER_EPOCH = 100
SHOWN = 6  # test images in the report, per direction
MARKER = "demo.json"  # a folder that holds this may be replaced by the next demo


def settings(out: Path, steps: int) -> TrainConfig:
    """A small CycleGAN that two CPU cores train in minutes: its rate decays over the second half."""
    epochs = max(2, steps // STEPS_PER_EPOCH)
    return TrainConfig(
        model=ModelConfig(generator="resnet_3blocks", ngf=16, ndf=32, discriminator="n_layers", n_layers=2),
        optim=OptimConfig(lr=4e-4, n_epochs=epochs - epochs // 2, n_epochs_decay=epochs // 2),
        data=DataConfig(data=out / "data", load_size=SIZE, crop_size=SIZE, epoch_size=STEPS_PER_EPOCH),
        run=RunConfig(out=out, checkpoint_every=max(1, steps // 6), keep_checkpoints=0, sample_every=steps // 4),
    )


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Renders scenes, trains on them, scores the result against the hidden truth, exports an engine, writes a report.

    Example: python -m cyclegan_fast.demo --out runs/demo
    """

    out: Path = Path("runs/demo")
    """Folder of everything that the demo makes; an earlier demo in it is replaced."""
    steps: int = 2400
    """Training steps."""


def demo(config: Demo) -> None:
    """Runs the demo."""
    print(config)


if __name__ == "__main__":
    run_command(demo)
