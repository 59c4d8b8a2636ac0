"""How a run starts: its folder is locked, its images are found, checked and read, before any network is built."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

import torch

from cyclegan_fast.config import PixelFormat, TrainConfig
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.data.held_out import read_held_out
from cyclegan_fast.data.loaders.base import Loader
from cyclegan_fast.data.locations.domains import refuse_missing_locations
from cyclegan_fast.data.scored_images import Images
from cyclegan_fast.monitoring.run_report import channels_note
from cyclegan_fast.nn import image_requirements
from cyclegan_fast.training.evaluator import read_scored_images
from cyclegan_fast.training.example_data import takes_example_data, with_example_data
from cyclegan_fast.training.process import RunLock
from cyclegan_fast.training.ranks import Ranks
from cyclegan_fast.training.resume import checkpoint_to_continue, log_fresh_start, refuse_nothing_to_continue
from cyclegan_fast.training.settings import suggest_smaller_sizes

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunImages:
    """The images of a run."""

    loader: Loader
    """Of the training images."""
    held_out: Images
    """Those of the sample grids; none where there are no grids, and on every rank but the first."""
    scored: Images
    """The test images that are scored; none where nothing is scored, and on every rank but the first."""

    @property
    def pixel_formats(self) -> dict[str, PixelFormat]:
        """Those of the images of A and B."""
        return {name: domain.pixel_format for name, domain in zip("AB", self.loader.samples.domains, strict=True)}


def claim_folder(config: TrainConfig, ranks: Ranks, device: torch.device, stack: contextlib.ExitStack) -> TrainConfig:
    """Locks the run's folder, until `stack` ends; returns the settings with their images, rendered if there are none.

    The first rank alone locks it, and checks what can be seen of the images without looking at them.

    Raises:
        UserError: The images are not where the settings say; or none are named, and scenes cannot take their place; or
            the folder holds another run.
    """
    if ranks.is_first:
        if takes_example_data(config):
            refuse_nothing_to_continue(config)
        else:
            refuse_missing_locations(config.data)
        stack.enter_context(RunLock(config.run.out))
        if checkpoint_to_continue(config) is None:
            log_fresh_start(config)
        suggest_smaller_sizes(config, device)
    return with_example_data(config)


def read_images(config: TrainConfig, ranks: Ranks, device: torch.device) -> RunImages:
    """Checks the training images, and reads those that are shown and scored.

    Raises:
        UserError: They cannot be trained on.
    """
    size_divisor, min_size = image_requirements(config.model)
    loader = build_train_loader(
        config, device, size_divisor=size_divisor, min_size=min_size, rank=ranks.rank, world=ranks.world
    )
    domains = loader.samples.domains
    shown = ranks.is_first and config.run.sample_every
    images = RunImages(
        loader=loader,
        held_out=read_held_out(config.data, domains, min_size=min_size) if shown else ([], []),
        scored=read_scored_images(config, domains, min_size=min_size) if ranks.is_first else ([], []),
    )
    if note := channels_note(images.pixel_formats):
        log.info("sample grids and the report show %s", note)
    return images
