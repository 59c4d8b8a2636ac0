"""The checkpoints of a run are written beside the training: the same bytes, one at a time, none lost."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.checkpoint import best_checkpoint, latest_checkpoint, named_checkpoint, read_settings, verify
from cyclegan_fast.checkpoint.retention import KEEP_ALL, Scored
from cyclegan_fast.checkpoint.saving import write_checkpoint
from cyclegan_fast.checkpoint.snapshot import Contents
from cyclegan_fast.config import RunConfig
from cyclegan_fast.engine import load_engine
from cyclegan_fast.engine.generator import load_generator
from cyclegan_fast.errors import UserError
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.training.checkpoints import RunCheckpoints
from cyclegan_fast.training.trainer import Trainer
from cyclegan_fast.translate import translate
from tests.commands import train_settings

SMALL = (
    "--generator resnet_1blocks --ngf 4 --ndf 4 --discriminator n_layers --n-layers 1 --load-size 36 --crop-size 32 "
    "--device cpu --loader cache --workers 0 --log-every 1 --sample-every 0 --pool-size 3"
)
FLAGS = SMALL.split()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for domain in ("trainA", "trainB"):
        (root / domain).mkdir()
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(root / domain / f"{i}.png")
    return root


def trainer(images: Path, out: Path, *words: object, **options: Any) -> Trainer:
    return Trainer(train_settings(["--data", str(images), "--out", str(out), *FLAGS, *map(str, words)]), **options)


def steps_in(folder: Path) -> list[int]:
    """The steps of the checkpoints there, and nothing else is there."""
    return sorted(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").iterdir())


def test_the_bytes_are_those_that_the_training_thread_would_write(images: Path, tmp_path: Path) -> None:
    def write_at_once(record: dict[str, Any]) -> None:
        write_checkpoint(tmp_path / "at_once", run.state.contents(run.evaluator.scored(run.done)), KEEP_ALL)

    words = ["--max-steps", 7, "--checkpoint-every", 1, "--keep-checkpoints", 0]
    run = trainer(images, tmp_path / "run", *words, on_log=write_at_once)
    assert run.run() == 0
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == [f"step_{step:08d}" for step in range(1, 8)]
    for checkpoint in checkpoints:
        files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
        expected = {path.name: path.read_bytes() for path in (tmp_path / "at_once" / checkpoint.name).iterdir()}
        assert files == expected and len(files) == 5


@pytest.mark.parametrize(
    ("words", "due"),
    [
        ({"checkpoint_every": 3}, [3, 6, 9, 12]),
        ({"checkpoint_every": 0}, []),
        ({"checkpoint_every": 0, "checkpoint_minutes": 2}, [4, 8, 12]),  # a step takes half a minute
        ({"checkpoint_every": 5, "checkpoint_minutes": 2}, [4, 5, 9, 10]),
        ({"checkpoint_every": 0, "keep_every": 6}, [6, 12]),
        ({"checkpoint_every": 4, "keep_every": 6}, [4, 6, 8, 12]),
    ],
)
def test_when_one_is_due(tmp_path: Path, words: dict[str, Any], due: list[int]) -> None:
    now = [0.0]
    run = RunConfig(out=tmp_path, keep_checkpoints=0, **{"checkpoint_minutes": 0, **words})
    with RunCheckpoints(run, CPU, clock=lambda: now[0]) as checkpoints:
        for step in range(1, 13):
            now[0] += 30
            if checkpoints.due(Scored(step)):
                checkpoints.save(Contents(Scored(step), {}))
    assert steps_in(tmp_path) == due if due else not (tmp_path / "checkpoints").exists()


def test_milestones_outlive_the_newest_and_a_resume(images: Path, tmp_path: Path) -> None:
    words = ["--keep-every", 4, "--keep-checkpoints", 2, "--checkpoint-every", 3]
    assert trainer(images, tmp_path, *words, "--max-steps", 10).run() == 0
    assert steps_in(tmp_path) == [4, 8, 9, 10]
    assert trainer(images, tmp_path, *words, "--max-steps", 13, "--resume", "auto").run() == 0
    assert steps_in(tmp_path) == [4, 8, 12, 13]


def test_a_long_wait_for_the_one_before_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now, asked = [0.0], threading.Event()

    def clock() -> float:
        value = now[0]
        asked.set()
        return value

    def take_nine_seconds() -> None:
        """As a slow disk does, by the clock, once the training has begun to wait."""
        assert asked.wait(60)
        now[0] += 9

    with RunCheckpoints(RunConfig(out=tmp_path), CPU, clock=clock) as checkpoints:
        for step in range(1, 4):
            checkpoints.writer.wait()
            asked.clear()
            checkpoints.writer.start(take_nine_seconds)
            checkpoints.save(Contents(Scored(step), {}))
    (warning,) = caplog.messages
    assert "the checkpoint of step 1 waited 9 s until the one before it was written: save them less often" in warning


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of Linux")
def test_without_memory_for_a_copy_the_training_thread_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = {"x": torch.ones(2**28, dtype=torch.uint8)}  # 256 MiB, which writing does not copy
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with RunCheckpoints(RunConfig(out=tmp_path), CPU) as checkpoints:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**26, hard))
        try:
            for step in (1, 2):
                checkpoints.save(Contents(Scored(step), {"state.safetensors": state}))
                assert not checkpoints.writer.busy and steps_in(tmp_path)[-1] == step
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    verify(tmp_path)
    message = (
        "there are no 0.3 GB of memory for a copy of the training's state: training waits while a checkpoint is written"
    )
    assert caplog.messages == [message]


def test_a_disk_that_fills_up_ends_the_run_and_the_checkpoint_before_is_whole(images: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("cannot mount a small tmpfs")

    def fill(record: dict[str, Any]) -> None:
        if record["step"] == 4:
            with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    try:
        run = trainer(images, disk / "run", "--max-steps", 1000, "--checkpoint-every", 3, on_log=fill)
        with pytest.raises(UserError, match=r"checkpoint of step 6 in .*earlier ones are intact.*No space left"):
            run.run()
        assert steps_in(disk / "run") == [3]
        verify(disk / "run")
        assert run.done < 1000
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_loss_that_is_not_finite_leaves_the_checkpoint_in_flight_whole(images: Path, tmp_path: Path) -> None:
    words = ["--max-steps", 50, "--checkpoint-every", 1, "--keep-checkpoints", 0, "--lr", "1e30"]
    with pytest.raises(UserError, match=r"is not finite; the weights of before it are saved in .*failed"):
        trainer(images, tmp_path, *words).run()
    for step in steps_in(tmp_path):
        verify(tmp_path / "checkpoints" / f"step_{step:08d}")
    verify(next((tmp_path / "failed").iterdir()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_kill_costs_the_steps_since_the_last_checkpoint_and_a_resume_repeats_them(
    images: Path, tmp_path: Path
) -> None:
    words = ["--data", images, *FLAGS, "--checkpoint-every", 2, "--n-epochs", 100_000, "--out", tmp_path / "killed"]
    command = [sys.executable, "-m", "cyclegan_fast.train", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    records = wait_for_records(process, tmp_path / "killed", random.randint(5, 40))
    process.kill()
    process.communicate()
    newest = latest_checkpoint(tmp_path / "killed")
    assert newest is not None
    verify(newest)
    step = read_settings(newest).progress["step"]
    assert step >= records - 2 * 2, "every other step is saved, and one of them may have been on its way to the disk"
    words = ["--n-epochs", 100_000, "--checkpoint-every", 0, "--max-steps", step + 4]
    assert trainer(images, tmp_path / "killed", *words, "--resume", "auto").run() == 0
    assert trainer(images, tmp_path / "straight", *words).run() == 0
    losses = [[e["losses"] for e in read_events(tmp_path / run) if "losses" in e] for run in ("killed", "straight")]
    assert len(losses[0]) == step + 4 and losses[0] == losses[1]


def wait_for_records(process: subprocess.Popen[str], out: Path, count: int) -> int:
    """Waits until a run has written so many records at least; returns how many there are."""
    events, deadline = out / "events.jsonl", time.monotonic() + 240
    while not events.exists() or len(events.read_text().splitlines()) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return len(events.read_text().splitlines())


SLOW_DISK = """
import os, sys, threading, time
from pathlib import Path
from cyclegan_fast.train import main

gate, fsync = Path(sys.argv[1]), os.fsync

def slow_fsync(file):
    while threading.current_thread().name == "checkpoint" and not gate.exists():
        time.sleep(0.01)
    fsync(file)

os.fsync = slow_fsync
main(sys.argv[2:])
"""


@pytest.fixture
def on_a_slow_disk(images: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in tmp_path/run, in step 4 or just before, whose checkpoint of step 2 waits for the file tmp_path/gate."""
    out = tmp_path / "run"
    words = ["--data", images, "--out", out, *FLAGS, "--checkpoint-every", 2, "--keep-checkpoints", 0]
    words = [tmp_path / "gate", *words, "--n-epochs", 100_000]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_DISK, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_records(process, out, 3)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_training_goes_on_beside_a_slow_disk_and_a_signal_waits_for_both_checkpoints(
    on_a_slow_disk: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert not any((tmp_path / "run" / "checkpoints").glob("step_*"))
    on_a_slow_disk.send_signal(signal.SIGTERM)
    (tmp_path / "gate").touch()
    output, errors = on_a_slow_disk.communicate(timeout=120)
    assert on_a_slow_disk.returncode == 3, errors
    assert "stopped by a signal after a checkpoint" in output
    last = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[-1])["step"]
    # Once the signal comes later than step 4, that one is saved as well, and step 5 is the last.
    assert steps_in(tmp_path / "run") == ([2, 4, 5] if last == 5 else [2, last]) and last in (3, 4, 5)
    for step in (2, last):
        verify(tmp_path / "run" / "checkpoints" / f"step_{step:08d}")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.usefixtures("default_sigint")
def test_a_second_signal_ends_the_process_while_a_checkpoint_is_written(
    on_a_slow_disk: subprocess.Popen[str], tmp_path: Path
) -> None:
    on_a_slow_disk.send_signal(signal.SIGTERM)
    on_a_slow_disk.send_signal(signal.SIGINT)  # two of the same could arrive as one
    on_a_slow_disk.communicate(timeout=60)
    assert on_a_slow_disk.returncode in (130, 143)
    assert latest_checkpoint(tmp_path / "run") is None


@pytest.fixture(scope="module")
def scored_images(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images, those of training as test images too."""
    root = tmp_path_factory.mktemp("scored")
    for folder in ("trainA", "trainB", "testA", "testB"):
        shutil.copytree(images / folder.replace("test", "train"), root / folder)
    return root


def scores_of(out: Path, name: str) -> dict[int, float]:
    return {event["step"]: event["scores"][name] for event in read_events(out) if "scores" in event}


@pytest.mark.parametrize("score", ["swd", "cycle_ssim_BtoA"])
def test_the_best_is_kept_and_can_be_named(scored_images: Path, tmp_path: Path, score: str) -> None:
    words = ["--eval-every", 1, "--eval-images", 2, "--score", score, "--keep-checkpoints", 1, "--lr", 0.01]
    assert trainer(scored_images, tmp_path, *words, "--max-steps", 8).run() == 0
    scores = scores_of(tmp_path, score)
    assert list(scores) == list(range(1, 9))
    best = (min if score == "swd" else max)(scores, key=lambda step: scores[step])
    assert steps_in(tmp_path) == sorted({best, 8})
    found = best_checkpoint(tmp_path)
    assert found == tmp_path / "checkpoints" / f"step_{best:08d}" == named_checkpoint(tmp_path / "best")
    assert read_settings(tmp_path / "best").progress["step"] == best
    assert read_settings(found).scores[score] == scores[best]
    assert load_generator(tmp_path / "best", "BtoA").direction == "BtoA"
    assert load_engine(tmp_path / "best", device="cpu").direction == "AtoB"
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step_00000008"
    words = {"input": scored_images / "testA", "device": "cpu", "reconstruct": True}  # which needs both generators
    for engine, out in (tmp_path / "best", tmp_path / "by_name"), (found, tmp_path / "by_path"):
        assert translate(engine=engine, output=out, **words) == 0
    results = [sorted(path for path in (tmp_path / out).rglob("*") if path.is_file()) for out in ("by_name", "by_path")]
    assert [path.read_bytes() for path in results[0]] == [path.read_bytes() for path in results[1]] != []


def test_the_best_of_before_a_resume_stays_the_best(scored_images: Path, tmp_path: Path) -> None:
    words = ["--eval-every", 2, "--eval-images", 2, "--keep-checkpoints", 1, "--keep-best", 2, "--lr", 0.01]
    assert trainer(scored_images, tmp_path, *words, "--max-steps", 6).run() == 0
    assert trainer(scored_images, tmp_path, *words, "--max-steps", 12, "--resume", "auto").run() == 0
    scores = scores_of(tmp_path, "swd")
    assert steps_in(tmp_path) == sorted({*sorted(scores, key=lambda step: scores[step])[:2], 12})


def test_without_scores_there_is_no_best(images: Path, tmp_path: Path) -> None:
    assert trainer(images, tmp_path, "--max-steps", 2, "--checkpoint-every", 1, "--keep-checkpoints", 1).run() == 0
    assert steps_in(tmp_path) == [2] and best_checkpoint(tmp_path) is None
    with pytest.raises(UserError, match=r"best: no checkpoint of .* is scored, so that none is the best; name one of"):
        load_generator(tmp_path / "best")
    with pytest.raises(UserError, match=r"unknown score 'swdd', did you mean 'swd'"):
        best_checkpoint(tmp_path, "swdd")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--score swdd", "--score: unknown score 'swdd', did you mean 'swd'"),
        ("--score psnr", "--score psnr compares an image with its partner: add --eval-paired"),
        ("--score fid", "--score fid compares features: name a network with --features"),
    ],
)
def test_a_score_that_is_not_computed_is_refused(images: Path, tmp_path: Path, words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trainer(images, tmp_path / "run", *words.split())
    assert not (tmp_path / "run").exists()


def test_a_best_that_nothing_is_scored_for_is_reported(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(images, tmp_path, "--eval-every", 0, "--keep-best", 3).close()
    assert "--eval-every 0: nothing is scored, so that no checkpoint is the best by --score" in caplog.messages
