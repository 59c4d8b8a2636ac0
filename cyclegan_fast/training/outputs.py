"""What the first rank writes of a run for all: settings, events, sample grids, scores, the report, checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cyclegan_fast.config import PixelFormat, TrainConfig, to_dict
from cyclegan_fast.files import write_atomically
from cyclegan_fast.monitoring.appended import Unessential
from cyclegan_fast.monitoring.events import EventLog, read_events
from cyclegan_fast.monitoring.run_report import SETTINGS_NAME, RunReport, channels_note
from cyclegan_fast.monitoring.samples import remove_samples_after, save_samples
from cyclegan_fast.monitoring.training_progress import TrainingProgress
from cyclegan_fast.training.checkpoints import RunCheckpoints
from cyclegan_fast.training.evaluator import Evaluator
from cyclegan_fast.training.samples import SampleTranslator
from cyclegan_fast.training.watch import Watch


class RunOutputs:
    """Writes into the folder of a run what is due after each step.

    Args:
        config: The settings of the run.
        translator: What makes the sample grids.
        evaluator: What makes the scores.
        pixel_formats: Those of the images of A and B.
        wait_for_device: Called before samples or scores are made, which read from the device.
    """

    def __init__(
        self,
        config: TrainConfig,
        translator: SampleTranslator,
        evaluator: Evaluator,
        pixel_formats: Mapping[str, PixelFormat],
        *,
        wait_for_device: Callable[[], None],
    ) -> None:
        self.config, self.translator, self.evaluator = config, translator, evaluator
        self.wait_for_device = wait_for_device
        self.checkpoints = RunCheckpoints(config.run, translator.step.device)
        self.note = channels_note(pixel_formats)
        self.samples_guard = Unessential("sample grids are missing")

    @property
    def folder(self) -> Path:
        """That of the run."""
        return self.config.run.out

    def open(self, done: int, total_steps: int, stack: contextlib.ExitStack) -> None:
        """Opens the run's files, of which what was written after step `done` is removed; `stack` closes them."""
        settings = yaml.safe_dump(to_dict(self.config), sort_keys=False)
        write_atomically(self.folder / SETTINGS_NAME, settings.encode())
        self.events = stack.enter_context(EventLog(self.folder, resume_step=done or None))
        self.watch = Watch(self.config, self.events)
        remove_samples_after(self.folder, done or -1)
        self.total_steps = total_steps
        self.progress = stack.enter_context(TrainingProgress(total_steps, start_step=done))
        self.report = stack.enter_context(RunReport(self.folder, self.progress, self.note))
        stack.enter_context(self.checkpoints)

    def begin(self, done: int, cancelled: Callable[[], bool]) -> None:
        """Writes what is due before the first step, and starts the clocks.

        Args:
            done: Steps that were done before.
            cancelled: Returns whether the run is to stop.
        """
        if done == 0 and self.config.run.sample_every:
            self.save_samples(done)
        self.report.update()
        self.progress.begin()
        self.evaluator.begin(done, self.total_steps, read_events(self.folder), cancelled)

    def log(self, step: int, **values: Any) -> dict[str, Any]:
        """Writes a record of the steps since the last one, and returns it: step, time, losses by name, speed ..."""
        record = self.events.write(step, **values)
        self.watch.after_log(step, record["losses"])
        return record

    def after_step(self, step: int, record: Mapping[str, Any] | None, *, epoch_ended: bool, last: bool) -> None:
        """Writes samples, scores and the report where they are due, and shows the progress.

        Args:
            step: Steps done.
            record: What `log` has returned, where a record was due.
            epoch_ended: `step` was the last one of its epoch.
            last: `step` was the last one of the run; its report is written when the run's files are closed.
        """
        every = self.config.run.sample_every
        sample_due = every > 0 and (last or step % every == 0)
        scores_due = self.evaluator.is_due(step, epoch_ended=epoch_ended, last=last)
        if sample_due or scores_due:
            self.wait_for_device()
        if sample_due:
            self.save_samples(step)
        if scores_due:
            self.progress.info |= self.evaluator.evaluate(step, self.events)
        if last:
            self.evaluator.end()
        info = record and {k: v for k, v in record.items() if k not in ("step", "time", "losses")} | record["losses"]
        self.progress.update(step, info)
        if (record or sample_due or scores_due) and not last:
            self.report.update()

    def save_samples(self, step: int) -> None:
        """Writes a grid of the held-out images as the generators translate them now."""
        if rows := self.translator.rows():
            with self.samples_guard:
                grid = save_samples(self.folder, step, rows, self.translator.columns)
                self.events.image(step, "samples", grid)
            self.watch.after_samples(step, rows)
