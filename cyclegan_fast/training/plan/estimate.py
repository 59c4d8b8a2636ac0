"""`train --estimate`: what a run takes, from a few of its own steps on its own images; nothing of them is kept."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cyclegan_fast.config import TrainConfig, with_settings
from cyclegan_fast.data.loaders.cache_memory import format_bytes
from cyclegan_fast.device import resolve_device
from cyclegan_fast.errors import UserError
from cyclegan_fast.logs import suppressed_output
from cyclegan_fast.monitoring.events import EventLog
from cyclegan_fast.monitoring.progress import duration, progress_hidden
from cyclegan_fast.monitoring.samples import sample_files, save_samples
from cyclegan_fast.training.evaluator import MAX_SHARE
from cyclegan_fast.training.position import Position
from cyclegan_fast.training.process import StopSignal, peak_memory_gib
from cyclegan_fast.training.trainer import Trainer

STEPS_PER_RECORD = 5  # the first ones warm up: cuDNN, a CUDA graph, the prefetcher, torch.compile
MAX_RECORDS = 40  # beyond which nothing is learned
ENDLESS = 2**40  # steps or epochs
PACKAGE = "cyclegan_fast"


@dataclass(frozen=True)
class Estimate:
    """What a run takes: measured in some steps, and added up for all."""

    device: torch.device
    steps: int
    timed_steps: int
    seconds_per_step: float
    seconds_beside: float
    """Before the first step, finding and decoding the images and the first grid, and after the last one."""
    grids: int
    seconds_per_grid: float
    scores: int
    """How many times the test images are scored."""
    seconds_per_scores: float
    peak_memory_gib: float | None
    """Of CUDA's allocator, or of the process on the CPU; None where that is unknown."""
    reserved_gib: float | None
    """What CUDA's allocator holds for it; None on the CPU."""
    checkpoints: int
    """How many are kept."""
    checkpoint_bytes: int
    grid_bytes: int

    @property
    def seconds(self) -> float:
        """The whole run's time."""
        grids = max(0, self.grids - 1) * self.seconds_per_grid
        steps = self.steps * self.seconds_per_step
        return self.seconds_beside + steps + grids + self.scores * self.seconds_per_scores

    @property
    def disk_bytes(self) -> int:
        """What the run leaves on the disk, without its logs."""
        return self.checkpoints * self.checkpoint_bytes + self.grids * self.grid_bytes


def estimate(config: TrainConfig, *, seconds: float = 20.0) -> Estimate:
    """Trains some steps of a run in a temporary folder and measures them.

    Args:
        config: The settings of the run.
        seconds: The time after which no further steps are timed; at least some are.

    Raises:
        UserError: The device is not here, or the settings cannot be trained with.
        KeyboardInterrupt: A signal asked for a stop.
    """
    try:
        resolve_device(config.run.device)
    except UserError as error:
        raise UserError(f"--estimate measures steps on the device that will train: {error}") from error
    watch, stop = _Stopwatch(seconds), StopSignal()

    def on_log(record: dict[str, Any]) -> None:
        stop.requested |= watch.is_enough(record["steps_per_second"])

    with tempfile.TemporaryDirectory() as out, suppressed_output(PACKAGE), progress_hidden():
        trainer = Trainer(_dry(config, Path(out)), on_log=on_log)
        trainer.run(stop)
        if stop.signal is not None:
            raise KeyboardInterrupt
        return _add_up(config, trainer, watch)


class _Stopwatch:
    """Takes the times of a dry run at its records.

    Args:
        seconds: The time for steps, after those of the first record.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began = self.last = time.monotonic()
        self.speeds: list[float] = []  # of the records, in steps per second
        self.before = 0.0  # seconds before the first step

    def is_enough(self, speed: float) -> bool:
        """Notes the speed of a record, and returns whether it is to be the last."""
        self.last = time.monotonic()
        if not self.speeds:
            self.before = self.last - self.began - STEPS_PER_RECORD / speed
            self.deadline = self.last + self.seconds
        self.speeds.append(speed)
        return len(self.speeds) == MAX_RECORDS or (len(self.speeds) > 1 and self.last > self.deadline)


def _dry(config: TrainConfig, out: Path) -> TrainConfig:
    """The settings of the dry run: no end, and nothing beside the steps but the grid before the first one."""
    return with_settings(
        config,
        {
            **{"out": out, "resume": "off", "max_steps": None, "n_epochs": ENDLESS, "log_every": STEPS_PER_RECORD},
            **{"checkpoint_every": 0, "checkpoint_minutes": 0.0, "keep_every": 0},
            "sample_every": ENDLESS if config.run.sample_every else 0,
            "eval_every": 0 if config.run.eval_every == 0 else ENDLESS,
        },
    )


def _add_up(config: TrainConfig, trainer: Trainer, watch: _Stopwatch) -> Estimate:
    after = time.monotonic() - watch.last
    run = config.run
    planned = Position(config, trainer.loader.epoch_size)
    steps = planned.total_steps
    timed = watch.speeds[1:] or watch.speeds
    seconds_per_step = sum(1 / speed for speed in timed) / len(timed)
    seconds_per_grid, grid_bytes = _measure_grid(trainer) if run.sample_every else (0.0, 0)
    memory = _memory(trainer.device)
    scores, seconds_per_scores = 0, 0.0
    if trainer.evaluator.images[0]:
        first, seconds_per_scores = trainer.evaluator.expected_seconds(seconds_per_step), _time_scores(trainer)
        scores = _times_scored(
            run.eval_every, steps, planned.steps_per_epoch, seconds_per_step, first=first, each=seconds_per_scores
        )
    peak_memory, reserved = _memory(trainer.device) if scores else memory
    out = trainer.config.run.out
    return Estimate(
        device=trainer.device,
        steps=steps,
        timed_steps=len(timed) * STEPS_PER_RECORD,
        seconds_per_step=seconds_per_step,
        seconds_beside=watch.before + after,
        grids=1 + -(-steps // run.sample_every) if run.sample_every else 0,
        seconds_per_grid=seconds_per_grid,
        scores=scores,
        seconds_per_scores=seconds_per_scores,
        peak_memory_gib=peak_memory,
        reserved_gib=reserved,
        checkpoints=_kept(config, steps, scores),
        checkpoint_bytes=_size(max((out / "checkpoints").iterdir())),
        grid_bytes=grid_bytes,
    )


def _memory(device: torch.device) -> tuple[float | None, float | None]:
    """The peak in GiB so far: in use, and what CUDA's allocator holds, None on the CPU."""
    reserved = torch.cuda.max_memory_reserved(device) / 2**30 if device.type == "cuda" else None
    return peak_memory_gib(device), reserved


def _measure_grid(trainer: Trainer) -> tuple[float, int]:
    """The seconds that a grid takes, and its bytes; it is that of the newest step, as the first one is mere noise."""
    start, out = time.monotonic(), trainer.config.run.out
    rows = trainer.translator.rows()
    if not rows:  # too little memory for one
        return 0.0, 0
    save_samples(out, trainer.done, rows, trainer.translator.columns)
    return time.monotonic() - start, sample_files(out)[-1].stat().st_size


def _time_scores(trainer: Trainer) -> float:
    """Scores the test images once; returns the seconds."""
    with EventLog(trainer.config.run.out, resume_step=trainer.done) as events:
        trainer.evaluator.evaluate(trainer.done, events)
    return trainer.evaluator.last or 0.0


def _times_scored(
    every: int | None, steps: int, steps_per_epoch: int, seconds_per_step: float, *, first: float, each: float
) -> int:
    """How many times the test images are scored; see `Evaluator.is_due`.

    Args:
        every: --eval-every.
        steps: Of the whole run.
        steps_per_epoch: Steps of an epoch.
        seconds_per_step: Seconds of a step.
        first: Seconds that the first scores are expected to take.
        each: Seconds that scores take.
    """
    if every is not None:
        return -(-steps // every)
    times, expected = 0, first
    for epoch in range(1, -(-steps // steps_per_epoch) + 1):
        spent = times * each
        elapsed = min(epoch * steps_per_epoch, steps) * seconds_per_step + spent
        if spent + expected <= MAX_SHARE * elapsed:
            times, expected = times + 1, each
    return times


def _kept(config: TrainConfig, steps: int, scores: int) -> int:
    """How many checkpoints a run leaves, at most: the newest, the milestones, and the best."""
    run = config.run
    saved = -(-steps // run.checkpoint_every) if run.checkpoint_every else 1
    if run.keep_checkpoints == 0:
        return saved
    milestones = steps // run.keep_every if run.keep_every else 0
    return min(saved, run.keep_checkpoints) + milestones + min(scores, run.keep_best)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def as_text(found: Estimate, out: Path) -> Iterator[str]:
    """Yields the estimate line by line."""
    grids = _counted(found.grids, "grid")
    parts = [f"{found.steps:,} steps of {found.seconds_per_step:.3g} s"]
    parts += [grids] * bool(found.grids) + [_counted(found.scores, "evaluation")] * bool(found.scores)
    measured = f"from {found.timed_steps} steps of this training on {found.device}"
    yield f"time: {duration(found.seconds)}, for {' and '.join(parts)}; {measured}"
    if found.reserved_gib is not None:
        in_use = f"{found.peak_memory_gib:.2f} GiB of it in use"
        yield f"GPU memory: {found.reserved_gib:.2f} GiB reserved by torch, {in_use}"
    elif found.peak_memory_gib is not None:
        yield f"memory: {found.peak_memory_gib:.2f} GiB of this process at most, cached images included"
    kept = f"{_counted(found.checkpoints, 'checkpoint')} of {format_bytes(found.checkpoint_bytes)}"
    kept += f" and {grids} of {format_bytes(found.grid_bytes)}" * bool(found.grids)
    yield f"disk: {format_bytes(found.disk_bytes)} in {out}: {kept}; one checkpoint more while it is written"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
