"""python -m cyclegan_fast.report: the report of a run from its files, or several runs on one page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cyclegan_fast.cli import run_command
from cyclegan_fast.errors import UserError

COMPARISON_NAME = "comparison.html"


def report(runs: tuple[Path, ...], /, *, out: Path | None = None) -> int:
    """Writes the report of a run again, or one page that compares several.

    For example:
        python -m cyclegan_fast.report runs/*

    Of one run, its report.html is written anew from the other files in its folder: of one that was killed, say. Of
    several, a page shows their curves over each other, the settings in which they differ, and their last images side by
    side.

    Args:
        runs: The folders of runs: what was --out of each training.
        out: The .html file to write. By default report.html in the folder of the one run; of several, comparison.html
            in the folder that holds them all.
    """
    from cyclegan_fast.monitoring.comparison import write_comparison
    from cyclegan_fast.monitoring.run_report import write_run_report

    page = out or _common_folder(runs) / COMPARISON_NAME
    # runs/* names the page, too
    folders = [run for run in dict.fromkeys(runs) if _absolute(run) != _absolute(page)]
    if not folders:
        raise UserError(f"{page} is the page itself: name the folders of runs")
    written = write_run_report(folders[0], path=out) if len(folders) == 1 else write_comparison(folders, page)
    print(f"report: {written}")
    return 0


def _common_folder(runs: Sequence[Path]) -> Path:
    """The folder that holds all runs, relative to the current one where the runs are given so."""
    folder = os.path.commonpath([_absolute(run).parent for run in runs])
    return Path(folder if any(run.is_absolute() for run in runs) else os.path.relpath(folder))


def _absolute(path: Path) -> Path:
    """The path without .., and with its symbolic links as they are."""
    return Path(os.path.normpath(path.absolute()))


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process."""
    run_command(report, words)


if __name__ == "__main__":
    main()
