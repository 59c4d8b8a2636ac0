"""The demo from its first scene to its report, on a few scenes and steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cyclegan_fast import demo
from cyclegan_fast.cli import run_command
from tests.commands import run_in_process


def test_renders_trains_scores_exports_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    for name, value in (("TRAIN_IMAGES", 6), ("TEST_IMAGES", 3), ("SIZE", 32), ("REPORT_IMAGES", 2)):
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr("cyclegan_fast.evaluation.reader._STEPS", 3)
    monkeypatch.setattr("cyclegan_fast.evaluation.reader._SCENES", 4)
    out = tmp_path / "demo"
    done = run_in_process(
        lambda: run_command(demo.demo, ["--out", str(out), "--steps", "2", "--device", "cpu", "--loader", "cache"])
    )
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "rendering 18 images of 32x32 pixels",
        "training 2 steps",
        "step 2/2",
        "photo -> labels: pixel accuracy",
    ):
        assert part in done.stdout
    assert done.stdout.splitlines()[-1].endswith(f"open {out / 'report.html'}")
    assert len(list((out / "translated").iterdir())) == 3
    assert json.loads((out / "scores.json").read_text())["step"] == 2
    translations = 2 * 4 * 2  # directions, columns, images
    history = 2 * (1 + 3) * 3  # directions, inputs and steps, images
    assert (out / "report.html").read_text().count("<img") == translations + history
