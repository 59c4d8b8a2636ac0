"""What is left to train, and how long that takes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cyclegan_fast.config import with_settings
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.studies.folder import Run, StudyFolder
from cyclegan_fast.studies.variants import Variant
from cyclegan_fast.training.plan.estimate import estimate

log = logging.getLogger(__name__)

MEASURED_SECONDS = 3.0
FEW_IMAGES = 8


class Planned(NamedTuple):
    """A run, what there is of it, and how long the rest takes."""

    run: Run
    state: str
    seconds: float


def plan(folder: StudyFolder, variants: Sequence[Variant], seeds: Sequence[int]) -> Iterator[Planned]:
    """Yields all runs in their order; nothing is written to the folder.

    Raises:
        UserError: A variant cannot be trained here.
    """
    speeds: dict[str, float] = {}
    for run in folder.runs(variants, seeds):
        if run.is_done:
            yield Planned(run, "done", 0.0)
            continue
        if run.variant.name not in speeds:
            speeds[run.variant.name] = _seconds_per_step(folder, run)
        left = folder.steps - run.step
        state = f"{run.step:,} of {folder.steps:,} steps done" if run.step else f"{folder.steps:,} steps"
        yield Planned(run, state, left * speeds[run.variant.name])


def _seconds_per_step(folder: StudyFolder, run: Run) -> float:
    """Measures a few steps on a few scenes."""
    log.info("measuring some steps of %s", run.variant.title)
    with tempfile.TemporaryDirectory() as name:
        scenes = Path(name) / "scenes"
        render_dataset(scenes, folder.size, FEW_IMAGES, FEW_IMAGES, seed=0, paired=run.variant.model.needs_pairs)
        config = with_settings(folder.config(run), {"data": scenes, "sample_every": 0})
        return estimate(config, seconds=MEASURED_SECONDS).seconds_per_step
