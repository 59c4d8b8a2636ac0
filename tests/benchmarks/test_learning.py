"""Whether trainings learn, at several sizes and kinds of images: tasks, verdict and table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality import learning


def test_files_of_16_bits_and_of_five_channels_hold_what_they_say(tmp_path: Path) -> None:
    for name, dtype, channels in (("16 bits, 1 channel", "uint16", 1), ("5 channels", "uint8", 5)):
        task = learning.TASKS[name]
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        assert task.convert is not None
        found = task.convert(pixels)
        assert found.dtype == dtype and found.shape == (64, 64, channels) and task.channels == channels
    assert len(np.unique(learning.grey_16_bits(pixels))) > 1000  # more than 8 bits hold


def learned_task(steps: int, translated: float, **more: Any) -> dict[str, Any]:
    """What `learn` finds, of images that are 0.1 from the truth untranslated."""
    kind = "uint16, 1 channel(s), 3763 values in one"
    direction = {"files": kind, "l1": {"translated": translated, "untranslated": 0.1}, **more}
    losses = {"cycle_A": [2.0, 1.0], "cycle_B": [2.0, 1.0]}
    return {"network": "the defaults", "steps": steps, "losses": losses, "AtoB": direction, "BtoA": direction}


def test_a_task_fails_at_its_own_length_if_it_is_no_nearer_to_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    distances = {64: 0.05, 128: 0.2}  # of translations, by size

    def learn(task: learning.Task, folder: Path, steps: int) -> dict[str, Any]:
        return learned_task(steps, distances[task.size], checkerboard={"translated": 6.25, "real": 0.96})

    monkeypatch.setattr(learning, "learn", learn)
    words = ["--out", str(tmp_path), "--only", "64 px", "128 px"]
    assert learning.main(words) == 1
    sentence = "128 px, A to B: no nearer to the truth than the untranslated images: 0.200 from it after 150 steps, "
    out = capsys.readouterr().out
    assert sentence + "those 0.100\n" in out and "64 px, A to B" not in out and "| 6.2 (1.0) | 6.2 (1.0) |" in out
    assert learning.main([*words, "--steps", "149"]) == 0  # measured, and not judged
    assert "those 0.100 (not judged below 150 steps)\n" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "learning.json").read_text())) == ["64 px", "128 px"]
    distances[128] = 0.1  # as far as the untranslated ones
    assert learning.main(words) == 1
    distances[128] = math.nan
    assert learning.main(words) == 1
    distances[128] = 0.099
    assert learning.main(words) == 0


def test_older_results_without_a_checkerboard_are_shown() -> None:
    stored = learning.stamped([learned_task(400, 0.05)])
    row = learning.table({"16 bits, 1 channel": stored})[2]
    assert row.endswith("| not measured | not measured | 16 bits, 1 channel (3,763 values in one image) |")


def test_tasks_are_named_by_words_that_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = learning.parse(["--out", "x", "--only", "64 px", "16 bits, 1 channel"])
    assert arguments.only == ["64 px", "16 bits, 1 channel"]
    for wrong, message in ((["--only", "16 bits"], "there is no task 16 bits"), (["--steps", "0"], "at least 1")):
        with pytest.raises(SystemExit):
            learning.parse(["--out", "x", *wrong])
        assert message in capsys.readouterr().err


def test_a_task_runs_by_the_commands_and_again_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "TRAIN_IMAGES", 4)
    monkeypatch.setattr(learning, "TEST_IMAGES", 2)
    task = learning.Task(size=32, steps=2, flags=learning.TINY, channels=1, convert=learning.grey_16_bits)
    found = learning.learn(task, tmp_path, 2)
    assert found["steps"] == 2 and found["AtoB"]["files"].startswith("uint16, 1 channel(s), ")
    for direction in learning.DIRECTIONS:
        assert min(found[direction]["l1"].values()) > 0
        assert found[direction]["checkerboard"].keys() == {"translated", "real"}
        assert min(found[direction]["checkerboard"].values()) > 0
    (weights,) = (tmp_path / "run" / "checkpoints").glob("step_*")
    written = weights.stat().st_mtime_ns
    assert (tmp_path / "sheet.png").is_file() and learning.learn(task, tmp_path, 2) == found
    assert weights.stat().st_mtime_ns == written
