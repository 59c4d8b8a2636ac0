"""What a start makes of the folder it is given: what is refused, in which order, and what --resume continues."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from cyclegan_fast.config import RunConfig, TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.train import main
from cyclegan_fast.training import start
from cyclegan_fast.training.process import RunLock
from cyclegan_fast.training.resume import checkpoint_to_continue
from cyclegan_fast.training.settings import resolve_settings
from cyclegan_fast.training.trainer import Trainer
from tests.commands import run_in_process, train_settings
from tests.training.test_samples import FLAGS, data

__all__ = ["data"]

SMALL = [*FLAGS.split(), "--log-every", "1"]


def train(*words: object) -> subprocess.CompletedProcess[str]:
    return run_in_process(lambda: main([*map(str, words)]))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    assert train("--data", data, "--out", out, *SMALL, "--max-steps", 2).returncode == 0
    return out


@pytest.fixture
def started(trained: Path, tmp_path: Path) -> Path:
    """The folder of a run that ended before its first checkpoint."""
    return Path(shutil.copytree(trained, tmp_path / "started", ignore=shutil.ignore_patterns("checkpoints")))


def test_resume_starts_a_run_without_a_checkpoint_again_with_its_settings(started: Path) -> None:
    before = yaml.safe_load((started / "config.yaml").read_text())
    done = train("--out", started, "--resume", "--max-steps", 3, "--lr", "1e-3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{started} has no checkpoint yet: starting again from step 0 with its settings\n") == 1
    after = yaml.safe_load((started / "config.yaml").read_text())
    before["run"] |= {"out": str(started), "max_steps": 3}
    before["optim"]["lr"] = 1e-3
    assert after == before
    assert [event["step"] for event in read_events(started)] == [1, 2, 3]


def test_the_log_of_a_run_without_a_checkpoint_is_not_lost(started: Path, data: Path) -> None:
    log = (started / "events.jsonl").read_bytes()
    done = train("--data", data, "--out", started, *SMALL)
    assert done.returncode == 2
    assert f"{started} holds a run already, without a checkpoint: start it again with --resume auto" in done.stderr
    assert (started / "events.jsonl").read_bytes() == log
    (started / "events.jsonl").write_text("")  # nothing was logged yet
    assert checkpoint_to_continue(TrainConfig(run=RunConfig(out=started))) is None


def test_damaged_settings_of_a_run_without_a_checkpoint_are_one_sentence(started: Path) -> None:
    (started / "config.yaml").write_text("model: {ngff: 3}")
    done = train("--out", started, "--resume")
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*config\.yaml\.model: unknown setting 'ngff', did you mean 'ngf'\?\n", done.stderr)


def test_resume_without_a_run_needs_images(data: Path, tmp_path: Path) -> None:
    done = train("--out", tmp_path / "typo", "--resume", *SMALL)
    assert done.returncode == 2
    assert f"nothing to continue in {tmp_path / 'typo'}, and no --data: name the --out of a run" in done.stderr
    assert not (tmp_path / "typo").exists()
    done = train("--out", tmp_path / "new", "--resume", "--data", data, *SMALL, "--max-steps", 1)
    assert done.returncode == 0, done.stderr
    assert f"nothing to continue in {tmp_path / 'new'}: starting afresh\n" in done.stdout


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        ("--data {data}/nix", "there is no such data folder"),
        ("--data {data}/trainA", "the folder trainA is missing"),
        ("--data-A {data}/nix --data-B {data}/trainB", "nix: is not there; name a folder"),
        ("--data-A {data}/trainA --data-B b.txt", "b.txt: this list cannot be read"),
        (
            "--data-A {data}/trainA --data-B {data}/trainB --test-A {data}/nix --test-B {data}/testB",
            "nix: is not there; name a folder",
        ),
        ("--test-A {data}/testA --test-B {data}/testB", "--test-A and --test-B go with --data-A and --data-B"),
        ("--generator resnet9", "resnet_<N>blocks"),
        ("--crop-size 30 --load-size 30", "--crop-size must be a multiple of"),
        ("--paired --data {data}/trainA", "holds no pairs"),
        pytest.param(
            *("--cuda-graphs on", "there is no CUDA device"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA"),
        ),
    ],
)
def test_a_mistake_in_the_flags_comes_before_what_the_folder_holds(
    started: Path, data: Path, words: str, mistake: str
) -> None:
    done = train("--out", started, *words.format(data=data).split())
    assert done.returncode == 2 and mistake in done.stderr
    assert "on a CPU a step" not in done.stdout


def test_a_folder_is_locked_before_scenes_are_rendered_or_images_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("with_example_data", "build_train_loader"):
        monkeypatch.setattr(start, name, lambda *_, **__: pytest.fail("too early"))
    with RunLock(tmp_path):
        for words in ([], ["--data", data, "--resume"]):
            done = train("--out", tmp_path, *SMALL, *words)
            assert done.returncode == 2 and "another run is training in this folder" in done.stderr
            assert "starting" not in done.stdout
    assert [path.name for path in tmp_path.iterdir() if path != data] == [".lock"]


def test_a_trainer_holds_its_folder_until_its_run_has_ended(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = train_settings(["--data", str(data), "--out", str(out), *SMALL, "--max-steps", "1"])
    waiting = Trainer(config)
    with pytest.raises(UserError, match="another run"):
        Trainer(config)
    waiting.close()
    seen = []

    def look(_: object) -> None:
        with pytest.raises(UserError, match="another run"), RunLock(out):
            pass
        seen.append(True)

    assert Trainer(config, on_log=look).run() == 0 and seen == [True]
    with pytest.raises(UserError, match="holds a run already") as refused:  # which must not hold the lock
        Trainer(config)
    with RunLock(out):
        assert refused.tb is not None


def test_a_rate_of_zero_is_likely_a_mistake(caplog: pytest.LogCaptureFixture) -> None:
    resolve_settings(train_settings(["--lr", "0"]), torch.device("cpu"))
    assert caplog.record_tuples[-1][1:] == (logging.WARNING, "--lr 0: training changes no weight")
