"""python -m cyclegan_fast.experiments: the paper's tables, trained again on scenes whose truth is known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from cyclegan_fast.cli import run_command
from cyclegan_fast.errors import UserError
from cyclegan_fast.studies.variants import STUDIES, Variant
from cyclegan_fast.training.process import EXIT_STOPPED, StopSignal

if TYPE_CHECKING:
    from cyclegan_fast.studies.folder import StudyFolder

log = logging.getLogger(__name__)


def experiments(
    study: Literal["ablation", "rivals", "identity"],
    /,
    *,
    out: Path = Path("runs/experiments"),
    size: int = 32,
    steps: int = 1000,
    seeds: tuple[int, ...] = (0, 1, 2),
    only: tuple[str, ...] = (),
    device: str = "auto",
    dry_run: bool = False,
) -> int:
    """Trains every variant of a table of the paper with several seeds, and scores it against a hidden truth.

    For example:
        python -m cyclegan_fast.experiments ablation --dry-run
        python -m cyclegan_fast.experiments ablation --seeds 0 1 2 --out runs/experiments
        python -m cyclegan_fast.experiments identity --size 64 --steps 5000 --out runs/experiments_64px

    ablation (tables 4 and 5): cycle alone, GAN alone, GAN + forward cycle, GAN + backward cycle, CycleGAN. rivals
    (tables 2 and 3): CycleGAN beside other methods. identity (figure 9): without the identity loss and with it.

    All train on rendered scenes, and are scored as the paper scores Cityscapes. Written to --out, after each run: a
    page with tables and images (ablation.html), the tables (ablation.md) and all numbers (ablation.json), with means
    and spreads over the seeds beside the paper's numbers; each run in runs/.

    The same command continues what was interrupted and trains nothing twice, also where studies share a variant.
    Started a second time meanwhile, it takes its share of the runs. Ctrl-C ends it after a step, with a checkpoint and
    status 3.

    Args:
        study: ablation, rivals or identity.
        out: Folder of runs and tables. All studies of the same --size and --steps may use one.
        size: Side of the scenes in pixels, 32 to 256.
        steps: Training steps of each run.
        seeds: Each variant is trained once with each of them. An order of variants is claimed from 3 on.
        only: Names of the variants to train, such as gan-alone; by default all.
        device: auto, cpu, cuda or cuda:<index>.
        dry_run: List the runs and how long they will take, measured in a few steps of each variant, and stop.
    """
    chosen_study = STUDIES[study]
    variants = [chosen_study.find(name) for name in dict.fromkeys(only)] or list(chosen_study.variants)
    if min(seeds) < 0:
        raise UserError(f"--seeds must be at least 0, got {min(seeds)}")

    from cyclegan_fast.device import resolve_device
    from cyclegan_fast.studies.folder import StudyFolder
    from cyclegan_fast.studies.report import write_results
    from cyclegan_fast.studies.work import train_all

    resolve_device(device)
    folder = StudyFolder(out, size, steps, device)
    folder.check()
    if dry_run:
        return _print_plan(folder, variants, seeds)
    runs = folder.runs(variants, seeds)
    write = partial(write_results, folder, chosen_study, folder.runs(chosen_study.variants, seeds))
    with StopSignal(at_once=True) as stop:
        finished = _unless_stopped(stop, lambda: train_all(folder, runs, stop, write))
    if not finished:
        done = sum(run.is_done for run in runs)
        log.info("stopped by a signal, %d of %d runs are done; the same command continues", done, len(runs))
        return EXIT_STOPPED
    write()
    print((out / f"{study}.md").read_text("utf-8"))
    print(f"page: {out / f'{study}.html'}")
    return 0


def _unless_stopped(stop: StopSignal, train: Callable[[], bool]) -> bool:
    """Returns what `train` does; False where a signal ended it at once, outside of a training."""
    try:
        return train()
    except KeyboardInterrupt:
        if not stop.requested:
            raise
        return False


def _print_plan(folder: StudyFolder, variants: Sequence[Variant], seeds: Sequence[int]) -> int:
    """Prints what is left to train and how long it takes; returns the exit status."""
    from cyclegan_fast.monitoring.progress import duration
    from cyclegan_fast.studies.plan import plan

    total = 0.0
    for run, state, seconds in plan(folder, variants, seeds):
        total += seconds
        print(f"{run.name:24} {state}" + (f", about {duration(seconds)}" if seconds else ""))
    print(f"about {duration(total)} in all, by one process on this machine")
    return 0


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process."""
    run_command(experiments, words, interrupted=EXIT_STOPPED)


if __name__ == "__main__":
    main()
