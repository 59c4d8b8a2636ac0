"""The checkpoints of a run: when one is due, which are kept, and that training goes on while one is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch

from cyclegan_fast.checkpoint.background import Background
from cyclegan_fast.checkpoint.folder import stored_scores
from cyclegan_fast.checkpoint.retention import KEEP_ALL, Retention, Scored
from cyclegan_fast.checkpoint.saving import write_checkpoint
from cyclegan_fast.checkpoint.snapshot import Contents, SnapshotMemory
from cyclegan_fast.config import RunConfig
from cyclegan_fast.logs import warn_once
from cyclegan_fast.metrics import find_metric

log = logging.getLogger(__name__)

MAX_SHARE = 0.02  # of the time between two checkpoints that is spent waiting without a warning


class RunCheckpoints:
    """Saves the checkpoints of a run from a thread of its own. Use it as a context manager around the training.

    The training thread copies all tensors into host memory and goes on; what is then written are the bytes that
    `save_checkpoint` would write. The block ends when the last checkpoint is on the disk, however it ends.

    Args:
        run: The settings of the run.
        device: Of the tensors.
        clock: Returns the time in seconds.
    """

    def __init__(self, run: RunConfig, device: torch.device, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.run, self.clock = run, clock
        self.folder = run.out / "checkpoints"
        self.keep = Retention(
            newest=run.keep_checkpoints,
            every=run.keep_every,
            best=run.keep_best,
            score=run.score,
            higher_is_better=find_metric(run.score).higher_is_better,
        )
        self.memory = SnapshotMemory(device)
        self.writer = Background("checkpoint")
        self.saved_step: int | None = None
        self.warned = False

    def __enter__(self) -> RunCheckpoints:
        self.scored = stored_scores(self.folder)
        self.saved_at = self.clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.__exit__(kind, error, trace)

    def due(self, scored: Scored) -> bool:
        """Returns whether a checkpoint is to be saved now: for its step, the time, or its scores.

        Raises:
            UserError: The one before could not be written.
        """
        self.writer.check()
        every, minutes = self.run.checkpoint_every, self.run.checkpoint_minutes
        return (
            (every > 0 and scored.step % every == 0)
            or self.keep.is_milestone(scored.step)
            or (minutes > 0 and self.clock() - self.saved_at >= 60 * minutes)
            or (bool(scored.scores) and self.keep.is_among_best(scored, self.scored))
        )

    def save(self, contents: Contents) -> None:
        """Copies what a checkpoint is made of and begins to write it, once the one before is written.

        A step that has been saved is not saved again.

        Raises:
            UserError: The one before could not be written; or this one, where there is no memory for the copy.
        """
        scored = contents.scored
        if scored.step == self.saved_step:
            return
        self._wait_for_the_one_before(scored.step)
        try:
            snapshot = self.memory.copy(contents)
        except MemoryError as error:
            warn_once(log, f"{error}: training waits while a checkpoint is written")
            write_checkpoint(self.folder, contents, self.keep)
        else:
            self.writer.start(lambda: write_checkpoint(self.folder, snapshot, self.keep))
        if scored.scores:
            self.scored.append(scored)
        self.saved_step, self.saved_at = scored.step, self.clock()

    def dump(self, contents: Contents) -> Path:
        """Writes a checkpoint of a run that fails beside the others, before it returns; returns its folder.

        Raises:
            UserError: It cannot be written.
        """
        self.writer.join()
        return write_checkpoint(self.run.out / "failed", contents, KEEP_ALL)

    def _wait_for_the_one_before(self, step: int) -> None:
        began = self.clock()
        self.writer.wait()
        waited, since = self.clock() - began, self.clock() - self.saved_at
        if waited > max(1, MAX_SHARE * since) and not self.warned:
            self.warned = True
            log.warning(
                "the checkpoint of step %d waited %.0f s until the one before it was written: save them less often "
                "(--checkpoint-every), or on a faster disk", step, waited
            )  # fmt: skip
