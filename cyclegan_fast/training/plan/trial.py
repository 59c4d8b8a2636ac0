"""A trial: a few real steps of the planned training, on the images and the device, to measure time and memory."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from cyclegan_fast.config import TrainConfig, with_settings
from cyclegan_fast.logs import suppressed_output
from cyclegan_fast.memory import memory_errors
from cyclegan_fast.training.device_batches import DeviceBatches
from cyclegan_fast.training.graphed_step import WARM_UP_STEPS, GraphedStep
from cyclegan_fast.training.process import peak_memory_gib
from cyclegan_fast.training.trainer import Trainer

IMAGES = 16  # of each domain that a trial reads
MIN_STEPS, MAX_STEPS = 2, 20  # that are timed
PACKAGE = "cyclegan_fast"


@dataclass(frozen=True)
class Trial:
    """What was measured."""

    steps: int
    """Steps that were timed, after those that warm up."""
    seconds_per_step: float
    peak_memory_gib: float | None
    """Of CUDA's allocator, or of this process on the CPU; None where that is unknown."""


def run_trial(config: TrainConfig, *, seconds: float = 15.0) -> Trial:
    """Trains a few steps on the first images of each domain; nothing is written.

    Args:
        config: The planned settings.
        seconds: The time after which no further step is timed; at least two are.

    Raises:
        TooLittleMemoryError: The GPU has too little memory for a step.
        UserError: The settings cannot be trained with.
    """
    few = {
        "max_dataset_size": IMAGES,
        "on_bad_image": "skip",
        "loader": "torch",
        "workers": 0,
        "sample_every": 0,
        "eval_every": 0,
    }
    with tempfile.TemporaryDirectory() as out:
        with suppressed_output(PACKAGE):  # what it logs would be about the trial
            trainer = Trainer(with_settings(config, few | {"out": Path(out)}))
        with contextlib.closing(trainer):
            advice = "plan for another --device, or train with a smaller --crop-size"
            with memory_errors("a step of this plan", trainer.device, lambda: advice):
                return _measure(trainer, seconds)


def _measure(trainer: Trainer, seconds: float) -> Trial:
    run_step = GraphedStep(trainer.step) if trainer.uses_graph else trainer.step
    batches = DeviceBatches(trainer.loader, trainer.device)
    warm_up = 1 + WARM_UP_STEPS if trainer.uses_graph else 1
    start, done = time.perf_counter(), 0
    deadline = start + seconds
    while done < warm_up + MIN_STEPS or (done < warm_up + MAX_STEPS and time.perf_counter() < deadline):
        if done == warm_up:
            _synchronize(trainer.device)
            start = time.perf_counter()
        batch = next(batches)
        run_step(batch["A"], batch["B"])
        done += 1
    _synchronize(trainer.device)
    steps = done - warm_up
    return Trial(steps, (time.perf_counter() - start) / steps, peak_memory_gib(trainer.device))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
