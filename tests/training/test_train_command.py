"""python -m cyclegan_fast.train as users run it: real folders, real processes, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from cyclegan_fast.config import TrainConfig, from_dict
from cyclegan_fast.errors import UserError

FLAGS = (
    "--generator resnet_1blocks --ngf 4 --ndf 4 --discriminator n_layers --n-layers 1 --load-size 36 --crop-size 32 "
    "--device cpu --workers 0 --log-every 1 --pool-size 3"
)
SMALL = FLAGS.split()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 ordinary JPEGs of mixed sizes."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for domain in ("trainA", "trainB"):
        (root / domain).mkdir()
        for i in range(150):
            height, width = rng.integers(20, 120, 2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / domain / f"{i:03d}.jpg")
    return root


def train(*words: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cyclegan_fast.train", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | (environment or {}), timeout=300
    )


def newest(out: Path) -> Path:
    return max((out / "checkpoints").glob("step_*"))


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


def test_fifty_iterations_on_mixed_sizes(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = train("--data", images, "--out", out, *SMALL, "--max-steps", 50, "--sample-every", 25, "--workers", 1)
    assert done.returncode == 0, done.stderr
    losses = [r for r in records(out) if "losses" in r]
    assert [r["step"] for r in losses] == list(range(1, 51))
    assert set(losses[0]["losses"]) == {"G_A", "G_B", "cycle_A", "cycle_B", "idt_A", "idt_B", "D_A", "D_B"}
    assert losses[-1]["losses"]["cycle_A"] < losses[0]["losses"]["cycle_A"]
    assert all(0 <= r["data_wait_share"] <= 1 for r in losses)
    assert re.search(
        r"^loader: cache \(both domains take 1\.2 MB of .* free in host memory\)$", done.stdout, re.MULTILINE
    )
    assert re.search(r"^step 50/50, .* data \d+\.\d%, ", done.stdout, re.MULTILINE)
    with Image.open(out / "samples" / "step_00000050.jpg") as grid:
        assert min(grid.size) > 60
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert from_dict(TrainConfig, settings).model.ngf == 4
    assert (newest(out) / "weights.safetensors").is_file()


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_resumed_run_is_the_run_that_never_stopped(images: Path, tmp_path: Path, amp: str) -> None:
    words = ["--data", images, *SMALL, "--amp", amp, "--epoch-size", 4, "--n-epochs", 2, "--n-epochs-decay", 2]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert train(*words, "--out", straight).returncode == 0
    assert train(*words, "--out", broken, "--max-steps", 6).returncode == 0
    again = train(*words, "--out", broken, "--resume", "auto", "--loader", "torch", "--workers", 1)
    assert again.returncode == 0, again.stderr
    assert newest(straight).name == newest(broken).name == "step_00000016"
    for name in ("weights.safetensors", "state.safetensors"):
        a, b = load_file(newest(straight) / name), load_file(newest(broken) / name)
        assert a.keys() == b.keys()
        assert all(a[key].equal(b[key]) for key in a), name
    assert [r["losses"] for r in records(straight) if "losses" in r] == [
        r["losses"] for r in records(broken) if "losses" in r
    ]


def test_sigterm_finishes_the_step_keeps_a_checkpoint_and_says_so(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--data", images, "--out", out, *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "cyclegan_fast.train", *map(str, words)], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (out / "events.jsonl").exists() or not records(out):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    second = train(*words, "--resume", "auto")
    assert second.returncode == 2
    assert "another run" in second.stderr
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "--resume auto" in said
    assert int(newest(out).name.removeprefix("step_")) == records(out)[-1]["step"]


def one_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def test_bad_input_is_answered_in_one_sentence(images: Path, tmp_path: Path) -> None:
    only_A = tmp_path / "onlyA"
    (only_A / "trainA").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(only_A / "trainA" / "1.jpg")
    one_sentence(train("--data", only_A, "--out", tmp_path / "x", *SMALL), "trainB")

    text = tmp_path / "text"
    for domain in ("trainA", "trainB"):
        (text / domain).mkdir(parents=True)
        Image.new("RGB", (64, 64), (9, 80, 9)).save(text / domain / "1.jpg")
    (text / "trainB" / "2.jpg").write_text("not an image")
    one_sentence(train("--data", text, "--out", tmp_path / "x", *SMALL), "2.jpg", "--on-bad-image skip")
    assert (
        train("--data", text, "--out", tmp_path / "x", *SMALL, "--on-bad-image", "skip", "--max-steps", 1).returncode
        == 0
    )

    one_sentence(train("--out", tmp_path / "x"), "--data")
    one_sentence(train("--data", images, "--out", tmp_path / "y", *SMALL, "--generator", "resnet"), "resnet_<N>blocks")
    one_sentence(train("--data", images, "--out", tmp_path / "y", *SMALL, "--amp", "fp16"), "bf16")
    config = tmp_path / "config.yaml"
    config.write_text("optim: {batchsize: 2}")
    one_sentence(train("--config", config), "batchsize", "did you mean 'batch_size'")


@pytest.mark.skipif(
    "torch" in sys.modules and __import__("torch").cuda.is_available(), reason="needs a machine without CUDA"
)
def test_cuda_graphs_without_cuda(images: Path, tmp_path: Path) -> None:
    words = ["--data", images, *SMALL, "--max-steps", 1, "--out", tmp_path / "run"]
    one_sentence(train(*words, "--cuda-graphs"), "--cuda-graphs", "CUDA")
    auto = train(*words, "--cuda-graphs=auto")
    assert auto.returncode == 0, auto.stderr
    assert "cuda graphs: off" in auto.stdout


def test_resume_with_other_settings_lists_them(images: Path, tmp_path: Path) -> None:
    words = ["--data", images, *SMALL, "--out", tmp_path / "run", "--max-steps", 1]
    assert train(*words).returncode == 0
    one_sentence(train(*words), "--resume auto")
    one_sentence(train(*words, "--resume", "auto", "--lr", "1e-3", "--ngf", 8), "lr was 0.0002, now 0.001", "ngf was 4")


def test_starts_from_other_weights(images: Path, tmp_path: Path) -> None:
    words = ["--data", images, *SMALL, "--max-steps", 1, "--lr", "0"]
    assert train(*words, "--out", tmp_path / "first").returncode == 0
    again = train(*words, "--seed", 5, "--out", tmp_path / "second", "--init-from", tmp_path / "first")
    assert again.returncode == 0, again.stderr
    a, b = (load_file(newest(tmp_path / run) / "weights.safetensors") for run in ("first", "second"))
    assert all(a[key].equal(b[key]) for key in a)


def test_a_loss_that_is_not_finite_stops_the_run(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = train("--data", images, "--out", out, *SMALL, "--max-steps", 200, "--lr", "1e30")
    one_sentence(done, "is not finite", "failed")
    weights = load_file(next((out / "failed").glob("step_*")) / "weights.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_flags_config_file_and_printed_settings_agree(tmp_path: Path) -> None:
    first = train("--print-config", "--amp", "--lambda-A", "7", "--no-flip", "--data", "images")
    assert first.returncode == 0
    (tmp_path / "c.yaml").write_text(first.stdout)
    second = train("--config", tmp_path / "c.yaml", "--print-config", "--lr", "1e-4")
    settings = yaml.safe_load(second.stdout)
    assert settings["run"]["amp"] == "bf16"
    assert settings["objective"]["lambda_A"] == 7.0
    assert settings["data"] | {"data": "images", "flip": False} == settings["data"]
    assert settings["optim"]["lr"] == 1e-4


def test_unknown_settings_name_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown setting 'batchsize', did you mean 'batch_size'\?"):
        from_dict(TrainConfig, {"optim": {"batchsize": 2}})
    with pytest.raises(UserError, match="expected one of lsgan"):
        from_dict(TrainConfig, {"objective": {"gan_mode": "lsgam"}})
    with pytest.raises(UserError, match="expected int"):
        from_dict(TrainConfig, {"optim": {"batch_size": "two"}})
    with pytest.raises(UserError, match="unknown setting 'lr', it belongs to the group 'optim'"):
        from_dict(TrainConfig, {"lr": 1e-3})
    with pytest.raises(UserError, match="unknown setting '1'"):
        from_dict(TrainConfig, {1: 2})  # type: ignore[dict-item]
    assert from_dict(TrainConfig, {"optim": {"lr": "2e-4"}}).optim.lr == 2e-4
    assert from_dict(TrainConfig, {"run": {"cuda_graphs": True, "amp": False}}).run.cuda_graphs == "on"
