"""The images of a run that names none: synthetic scenes, rendered into its folder."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.files import storage_errors

log = logging.getLogger(__name__)

TRAIN_IMAGES, TEST_IMAGES = 200, 20  # of each domain
MIN_SIZE, MAX_SIZE = 32, 1024  # pixels of a side that can be rendered


def with_example_data(config: TrainConfig) -> TrainConfig:
    """Returns `config` with rendered scenes as its data, where it names none; they are rendered at the first start.

    Raises:
        UserError: The run's folder cannot be written.
    """
    if not takes_example_data(config):
        return config
    data, size, folder = config.data, scene_size(config.data), _scenes_folder(config)
    given, hint = ("no --data: ", "; --data FOLDER takes your own images") if data.data is None else ("", "")
    scenes = f"{TRAIN_IMAGES} + {TRAIN_IMAGES} rendered scenes of {size}x{size} pixels" + ", in pairs" * data.paired
    log.info("%straining on %s, in %s%s", given, scenes, folder, hint)
    if not folder.exists():
        _render(folder, size, data.paired)
    return dataclasses.replace(config, data=dataclasses.replace(data, data=folder))


def takes_example_data(config: TrainConfig) -> bool:
    """Returns whether a run trains on rendered scenes: it names no images, or it is continued and did not."""
    data = config.data
    located = (data.data_A, data.data_B, data.test_A, data.test_B)
    return data.data in (None, _scenes_folder(config)) and not any(located)


def _scenes_folder(config: TrainConfig) -> Path:
    return config.run.out / f"scenes_{scene_size(config.data)}px{'_pairs' * config.data.paired}"


def scene_size(data: DataConfig) -> int:
    """Returns the side in pixels that scenes have for these settings: that to which images are resized or cropped."""
    return min(max(data.load_size, data.crop_size, MIN_SIZE), MAX_SIZE)


def _render(folder: Path, size: int, paired: bool) -> None:
    with storage_errors(f"cannot write the rendered scenes {folder}"):
        render_dataset(folder, size, TRAIN_IMAGES, TEST_IMAGES, seed=0, paired=paired)
