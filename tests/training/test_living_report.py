"""report.html of a run that trains, that fails, and that is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cyclegan_fast.errors import UserError
from cyclegan_fast.monitoring.run_report import write_run_report
from cyclegan_fast.monitoring.run_status import read_status
from cyclegan_fast.training.trainer import Trainer
from tests.commands import train_settings
from tests.training.test_samples import FLAGS, data, trainer

__all__ = ["data"]


def test_the_report_is_there_while_the_run_trains(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan_fast.monitoring.run_report.MAX_SHARE", 1.0)  # with every grid and record
    seen = []

    def look(record: dict[str, Any]) -> None:
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        seen.append((record["step"], f"step {record['step']} of 6" in page, "Running" in page, page.count("<img")))

    words = ["--data", str(data), "--out", str(tmp_path), *FLAGS.split(), "--log-every", "1", "--sample-every", "2"]
    assert Trainer(train_settings(words), on_log=look).run() == 0
    last = 2 * 4 * 3  # directions, images, columns
    strips = [0, *(2 * 4 * (1 + grids) for grids in (2, 2, 3, 3))]
    assert seen[:5] == [(step, True, True, last + strips[step - 1]) for step in range(1, 6)]
    assert "Finished</b>: all 6 steps." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_time_left_leaves_out_what_comes_before_the_first_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, grids = trainer(data, tmp_path, "--max-steps 1"), []
    assert run.outputs is not None
    save = run.outputs.save_samples
    monkeypatch.setattr(run.outputs, "save_samples", lambda step: (save(step), grids.append(time.monotonic())))
    run.run()
    began = run.outputs.progress.display.history[0][0]
    assert grids[0] <= began <= grids[1]  # after the grid of step 0


def test_a_failed_run_says_why_in_its_report(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not finite"):
        trainer(data, tmp_path, "--lr 1e30 --max-steps 200").run()
    status = read_status(tmp_path)
    assert status is not None and status.state == "failed" and "is not finite" in status.message
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Failed</b> after step " in page and "is not finite; the weights of before it are saved in" in page


def test_a_run_that_was_killed_is_no_running_one(data: Path, tmp_path: Path) -> None:
    words = ["--data", data, "--out", tmp_path, *FLAGS.split(), "--max-steps", 10**6, "--log-every", 1]
    command = [sys.executable, "-m", "cyclegan_fast.train", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while not (tmp_path / "report.html").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        status = read_status(tmp_path)
        assert status is not None and status.state == "running"
        process.kill()
    assert "Running</b>: step " in (tmp_path / "report.html").read_text(encoding="utf-8")
    page = write_run_report(tmp_path).read_text(encoding="utf-8")
    assert "Ended unexpectedly</b> after step " in page and 'http-equiv="refresh"' not in page
