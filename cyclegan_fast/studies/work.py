"""Trains and scores the runs of a study: each once, however often and in how many processes it is started."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from cyclegan_fast.checkpoint import latest_checkpoint, read_settings
from cyclegan_fast.errors import UserError
from cyclegan_fast.studies.folder import WAIT_SECONDS, Run, StudyFolder
from cyclegan_fast.studies.scores import score_run
from cyclegan_fast.training.process import StopSignal
from cyclegan_fast.training.resume import setting_differences
from cyclegan_fast.training.trainer import Trainer

log = logging.getLogger(__name__)


def train_all(folder: StudyFolder, runs: Sequence[Run], stop: StopSignal, after_run: Callable[[], object]) -> bool:
    """Trains and scores all runs that no other process does, then waits for those that one does.

    Args:
        folder: What the runs share.
        runs: The runs, in their order.
        stop: Ends the run that trains after its step, with a checkpoint.
        after_run: Called after each run.

    Returns:
        Whether all are done; False after a stop.

    Raises:
        UserError: A run cannot be trained, or was trained with other settings.
    """
    folder.prepare([run.variant for run in runs])
    for run in runs:
        refuse_other_settings(folder, run)
    waited_for: Run | None = None
    while left := [run for run in runs if not run.is_done]:
        claimed = False
        for run in left:
            with folder.claim(run) as is_ours:
                if not is_ours or run.is_done:
                    continue
                claimed = True
                log.info("%s (%d of %d runs are left)", run.label, sum(not each.is_done for each in runs), len(runs))
                if not _train_one(folder, run, stop):
                    return False
            after_run()
        if not claimed:
            if waited_for != left[0]:
                waited_for = left[0]
                log.info("waiting for what another process trains: %s", waited_for.label)
            time.sleep(WAIT_SECONDS)
    return True


def refuse_other_settings(folder: StudyFolder, run: Run) -> None:
    """Refuses a run that was trained with other settings, by another version of the studies.

    Raises:
        UserError: It was.
    """
    checkpoint = latest_checkpoint(run.folder)
    if checkpoint is None:
        return
    differences = setting_differences(read_settings(checkpoint).config, folder.config(run))
    if differences:
        raise UserError(
            f"{run.folder} was trained with other settings: {'; '.join(differences)}; delete it, or name another --out"
        )


def _train_one(folder: StudyFolder, run: Run, stop: StopSignal) -> bool:
    """Trains a run to its end and scores it; returns whether it got there."""
    if run.step < folder.steps:
        try:
            status = Trainer(folder.config(run)).run(stop)
        except UserError as error:
            raise UserError(f"{run.label}: {error}") from error
        if status:
            return False
    stop.at_once = True  # scoring is done again where it was interrupted
    score_run(folder, run)
    return True
