"""`Run`: a folder as Python and a notebook see it, whether its run has ended or not."""

from __future__ import annotations

import html
import inspect
import math
from pathlib import Path

import numpy as np
import pytest

from cyclegan_fast import Run, UserError, fit, load_engine
from cyclegan_fast.api.settings import FitSettings
from cyclegan_fast.monitoring.events import EventLog
from cyclegan_fast.monitoring.run_status import RunStatus, write_status


def write_log(folder: Path, steps: int) -> EventLog:
    log = EventLog(folder)
    for step in range(1, steps + 1):
        losses = {"G_A": 0.5 / step, "D_A": math.nan if step == 2 else 0.25}
        log.write(step, losses=losses, epoch=1, lr=2e-4, peak_memory_gib=None)
    return log


def test_a_living_run_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    log = write_log(tmp_path, 3)
    run = Run(str(tmp_path))
    assert run.steps.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(run.losses["G_A"], [0.5, 0.25, 0.5 / 3])
    np.testing.assert_array_equal(run.losses["D_A"], [0.25, math.nan, 0.25])
    assert set(run.curves) == {"time", "epoch", "lr"}
    assert (run.checkpoint, run.report, run.samples, run.finished, run.total_steps) == (None, None, [], False, None)
    assert repr(run) == f"Run({str(tmp_path)!r}): step 3"
    log.write(4, losses={"G_A": 0.1, "D_A": 0.2})
    log.close()
    write_status(tmp_path, RunStatus(state="failed", step=5, total_steps=9, message="the loss G_A is not finite"))
    assert run.steps.tolist() == [1, 2, 3]  # what was read stays consistent
    assert run.refresh().steps.tolist() == [1, 2, 3, 4]
    assert (run.step, run.total_steps, run.finished) == (5, 9, False)
    assert run.status is not None and "not finite" in run.status.message
    assert repr(run) == f"Run({str(tmp_path)!r}): step 5 of 9, failed"


@pytest.mark.parametrize("changes", [{}, {"lambda_identity": 0.0}, {"lambda_gan": 0.0}, {"lambda_A": 0.0}])
def test_losses_are_empty_arrays_before_the_first_record(small: FitSettings, tmp_path: Path, changes: dict) -> None:
    run = fit(**small | {"out": tmp_path, "max_steps": 1, "sample_every": 0, **changes}, progress=False)
    trained = list(run.losses)
    (tmp_path / "events.jsonl").write_text("")
    run.refresh()
    assert list(run.losses) == trained and all(loss.shape == run.steps.shape == (0,) for loss in run.losses.values())


def test_a_status_prints_in_a_line() -> None:
    status = RunStatus(state="stopped", step=5, total_steps=9, machine={"cpu": "a CPU"}, channels_note="the first")
    assert repr(status) == "RunStatus(state='stopped', step=5, total_steps=9, seconds_left=None, message='')"


def test_a_notebook_shows_where_it_is_the_newest_grid_and_the_curves(tmp_path: Path) -> None:
    write_log(tmp_path, 3).close()
    write_status(tmp_path, RunStatus(state="running", step=3, total_steps=4))  # of a process that is gone
    (tmp_path / "samples").mkdir()
    for step in (1, 3):
        (tmp_path / "samples" / f"step_{step:08d}.jpg").write_bytes(b"grid %d" % step)
    shown = Run(tmp_path)._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    page = html.unescape(shown)
    assert "step 3 of 4, killed" in page
    assert page.count("<img") == 1 and "Sample grid step_00000003" in page
    assert page.count("<svg") == 3  # both losses and the rate


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no training run"):
        Run(tmp_path)
    with pytest.raises(FileNotFoundError):
        Run(tmp_path / "none")
    write_log(tmp_path, 1).close()
    with pytest.raises(UserError, match="checkpoint"):
        Run(tmp_path).engine("AtoB")


def test_its_engine_takes_what_load_engine_takes() -> None:
    own, others = (list(inspect.signature(f).parameters.values()) for f in (Run.engine, load_engine))
    assert [p.name for p in own[1:]] == [p.name for p in others[1:]]
    assert [p.annotation for p in own[2:]] == [p.annotation for p in others[2:]]
    assert [p.default for p in own[2:]] == [p.default for p in others[2:]]
