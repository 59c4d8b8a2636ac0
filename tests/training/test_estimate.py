"""`train --estimate`: what it says a run takes against what the run then takes; nothing is left of the dry run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from cyclegan_fast.config import TrainConfig, with_settings
from cyclegan_fast.train import main
from cyclegan_fast.training.plan import estimate as estimating
from cyclegan_fast.training.plan.estimate import Estimate, as_text, estimate
from tests.commands import run_in_process, train_settings
from tests.training.test_samples import FLAGS, data

__all__ = ["data"]


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "MAX_RECORDS", 2)


def words(data: Path, out: Path, *more: str) -> list[str]:
    return ["--data", str(data), "--out", str(out), *FLAGS.split(), *more]


@pytest.mark.usefixtures("few_steps")
def test_the_command_prints_three_lines_and_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    flags = "--estimate --epoch-size 1000 --max-steps 25000 --checkpoint-every 1000 --keep-checkpoints 2"
    flags += " --keep-every 10000 --eval-every 5000"
    done = run_in_process(lambda: main(words(data, tmp_path / "run", *flags.split())))
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == "training a few steps, of which nothing is kept" and len(lines) == 3
    assert re.fullmatch(
        r"time: .*, for 25,000 steps of \S+ s and 26 grids and 5 evaluations; from 5 steps of this training on cpu",
        lines[0],
    )
    assert re.fullmatch(r"memory: \d\.\d\d GiB of this process at most, cached images included", lines[1])
    assert re.fullmatch(
        rf"disk: \S+ [kMG]B in {tmp_path / 'run'}: 5 checkpoints of \S+ [kM]B and 26 grids of \S+ [kM]B; one .*",
        lines[2],
    )
    assert not (tmp_path / "run").exists() and list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.usefixtures("few_steps")
def test_what_is_added_up(data: Path, tmp_path: Path) -> None:
    flags = "--max-steps 100 --sample-every 0 --eval-every 0 --checkpoint-every 30 --keep-checkpoints 0"
    found = estimate(train_settings(words(data, tmp_path / "run", *flags.split())))
    assert (found.steps, found.timed_steps, found.grids, found.scores, found.checkpoints) == (100, 5, 0, 0, 4)
    assert found.seconds == found.seconds_beside + 100 * found.seconds_per_step > 0
    assert found.disk_bytes == 4 * found.checkpoint_bytes > 0 and found.reserved_gib is None
    epochs = train_settings(["--data", str(data), *FLAGS.split(), "--n-epochs", "3", "--n-epochs-decay", "2"])
    assert estimate(with_settings(epochs, {"max_steps": None})).steps == 5 * 6


@pytest.mark.parametrize(
    ("settings", "scores", "kept"),
    [
        ({}, 0, 3),  # after 5,000, 10,000 and at the end
        ({"keep_checkpoints": 2, "keep_every": 4000, "keep_best": 3}, 9, 2 + 3 + 3),
        ({"keep_checkpoints": 2, "keep_best": 3}, 1, 2 + 1),
        ({"keep_checkpoints": 0, "checkpoint_every": 1000}, 9, 13),
        ({"checkpoint_every": 0}, 0, 1),
    ],
)
def test_how_many_checkpoints_a_run_leaves(settings: dict[str, int], scores: int, kept: int) -> None:
    assert estimating._kept(with_settings(TrainConfig(), settings), 12_400, scores) == kept


@pytest.mark.parametrize(
    ("every", "first", "each", "times"),
    [(None, 3.0, 0.01, 5), (None, 3.0, 2.0, 2), (None, 3.0, 9.0, 1), (None, 6.0, 0.01, 0), (30, 3.0, 2.0, 4)],
)
def test_how_many_times_a_run_is_scored(every: int | None, first: float, each: float, times: int) -> None:
    """In 100 steps of 1 s, ten to an epoch; without a number in 5 % of the time, the first by expectation."""
    assert estimating._times_scored(every, 100, 10, 1.0, first=first, each=each) == times


def test_a_gpus_memory_is_what_its_allocator_holds() -> None:
    found = Estimate(
        device=torch.device("cuda"), steps=1000, timed_steps=100, seconds_per_step=0.01, seconds_beside=35.0, grids=2,
        seconds_per_grid=5.0, scores=0, seconds_per_scores=0.0, peak_memory_gib=4.5, reserved_gib=6.25, checkpoints=3,
        checkpoint_bytes=2 * 10**9, grid_bytes=10**6,
    )  # fmt: skip
    assert list(as_text(found, Path("run"))) == [
        "time: 50 s, for 1,000 steps of 0.01 s and 2 grids; from 100 steps of this training on cuda",
        "GPU memory: 6.25 GiB reserved by torch, 4.50 GiB of it in use",
        "disk: 6.0 GB in run: 3 checkpoints of 2.0 GB and 2 grids of 1.0 MB; one checkpoint more while it is written",
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures a process's memory with wait4")
def test_memory_and_disk_are_within_15_percent_of_what_the_run_takes(data: Path, tmp_path: Path) -> None:
    flags = ["--load-size", "72", "--crop-size", "64", "--ngf", "16", "--ndf", "16", "--batch-size", "4"]
    flags += ["--max-steps", "20", "--sample-every", "10"]
    out = tmp_path / "run"
    told, _ = process(words(data, out, *flags, "--estimate"))
    found = re.search(r"memory: (\S+) GiB.*\ndisk: .*: 1 checkpoint of (\S+) MB and 3 grids", told)
    assert found, told
    _, peak = process(words(data, out, *flags))
    assert float(found[1]) == pytest.approx(peak, rel=0.15)
    assert float(found[2]) * 1e6 == pytest.approx(estimating._size(out / "checkpoints"), rel=0.15)


def process(command: list[str]) -> tuple[str, float]:
    """Trains in a process of its own; returns what it printed, and its peak memory in GiB."""
    with tempfile.TemporaryFile("w+") as printed:
        started = subprocess.Popen([sys.executable, "-m", "cyclegan_fast.train", *command], stdout=printed)
        _, status, usage = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        text = printed.read()
    assert started.returncode == 0, text
    return text, usage.ru_maxrss / 2**20
