"""python -m cyclegan_fast.train as users run it: real folders, and real processes where signals or a resume count."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from cyclegan_fast.api.run import Run
from cyclegan_fast.config import TrainConfig, from_dict
from cyclegan_fast.train import main
from cyclegan_fast.training.trainer import Trainer
from tests.commands import run_in_process, train_settings
from tests.reliability import Recorder

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


def train(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs the command in this process."""
    return run_in_process(lambda: main(list(map(str, words))))


def train_process(*words: object, **options: Any) -> subprocess.Popen[str]:
    """Starts the command as users do."""
    command = [sys.executable, "-m", "cyclegan_fast.train", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


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
    assert all(0 <= r["data_wait_percent"] <= 100 for r in losses)
    assert re.search(
        r"^loader: cache \(both domains take 1\.2 MB of .* free in host memory\)$", done.stdout, re.MULTILINE
    )
    logged = re.findall(r"^step (\d+)/50, ", done.stdout, re.MULTILINE)
    assert list(map(int, logged)) == list(range(1, 51))  # --log-every 1
    assert re.search(r"^step 50/50, .* data wait \d+\.\d%, ", done.stdout, re.MULTILINE)
    with Image.open(out / "samples" / "step_00000050.jpg") as grid:
        assert min(grid.size) > 60
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert from_dict(TrainConfig, settings).model.ngf == 4
    assert (newest(out) / "weights.safetensors").is_file()


@pytest.mark.fault(17)
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_resumed_run_is_the_run_that_never_stopped(images: Path, tmp_path: Path, amp: str) -> None:
    words = ["--data", images, *SMALL, "--amp", amp, "--epoch-size", 4, "--n-epochs", 2, "--n-epochs-decay", 2]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert train(*words, "--out", straight).returncode == 0
    assert train(*words, "--out", broken, "--max-steps", 6).returncode == 0
    again = train_process("--out", broken, "--resume", "--max-steps", "none", "--loader", "torch", "--workers", 1)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert newest(straight).name == newest(broken).name == "step_00000016"
    for name in ("weights.safetensors", "state.safetensors"):
        a, b = load_file(newest(straight) / name), load_file(newest(broken) / name)
        assert a.keys() == b.keys()
        assert all(a[key].equal(b[key]) for key in a), name
    assert [r["losses"] for r in records(straight) if "losses" in r] == [
        r["losses"] for r in records(broken) if "losses" in r
    ]


def test_a_resumed_record_holds_the_steps_before_the_checkpoint(images: Path, tmp_path: Path) -> None:
    """Stopped between two records: the steps after the last one are in the next, as if nothing had happened."""
    words = ["--data", images, *SMALL, "--log-every", 10, "--checkpoint-every", 5, "--max-dataset-size", 6]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert train(*words, "--out", straight, "--max-steps", 20).returncode == 0
    assert train(*words, "--out", killed, "--max-steps", 16).returncode == 0
    shutil.rmtree(newest(killed))  # as a kill after step 15 would have left it
    assert newest(killed).name == "step_00000015"
    assert train("--out", killed, "--resume", "--max-steps", 20).returncode == 0
    assert [r["step"] for r in records(killed)] == [10, 20]
    assert [r["losses"] for r in records(killed)] == [r["losses"] for r in records(straight)]


@pytest.mark.fault(14)
def test_a_full_disk_that_only_logs_meet_ends_no_run(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, user_sees: Recorder
) -> None:
    """Between two checkpoints nothing can be written: events, TensorBoard, grids, report and status are logs."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("cannot mount a small tmpfs")
    filler, free = disk / "filler", []

    def fill(record: dict[str, Any]) -> None:
        if record["step"] == 2:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        elif record["step"] == 8:
            filler.unlink()
        free.append(shutil.disk_usage(disk).free)

    try:
        words = ["--data", images, "--out", disk / "run", *SMALL, "--max-dataset-size", 6]
        words += ["--max-steps", 10, "--sample-every", 2, "--loader", "cache"]
        assert Trainer(train_settings(list(map(str, words))), on_log=fill).run() == 0
        assert min(free) == 0 and [r["step"] for r in records(disk / "run")] == list(range(1, 11))
        assert newest(disk / "run").name == "step_00000010" and Run(disk / "run").finished
        about = [line for line in caplog.messages if "No space left" in line]
        user_sees(about[0])
        assert len(about) == sum("training goes on" in line for line in about) <= 4
        assert sum("samples/step_" in line for line in about) == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_that_cannot_be_printed_ends_no_run(images: Path, tmp_path: Path) -> None:
    words = ["--data", images, "--out", tmp_path / "run", *SMALL, "--max-steps", 2, "--max-dataset-size", 6]
    command = [sys.executable, "-m", "cyclegan_fast.train", *map(str, words)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [r["step"] for r in records(tmp_path / "run")] == [1, 2]


@pytest.mark.fault(12, 19)
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_sigterm_ends_a_run_in_order_that_ignores_ctrl_c(images: Path, tmp_path: Path, user_sees: Recorder) -> None:
    """A script's shell starts its background jobs so: SIGINT changes nothing, SIGTERM ends the step and saves."""
    out = tmp_path / "run"
    words = ["--data", images, "--out", out, *SMALL]
    process = train_process(*words, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    wait_for_steps(process, out, 1)
    second = train(*words, "--resume", "auto")
    assert second.returncode == 2
    assert "another run" in second.stderr
    user_sees(second.stderr, 19)
    process.send_signal(signal.SIGINT)
    wait_for_steps(process, out, len(records(out)) + 3)  # two steps more at least began after the signal
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    (stopped,) = [line for line in output.splitlines() if "--resume auto" in line]
    user_sees(stopped, 12)
    assert int(newest(out).name.removeprefix("step_")) == records(out)[-1]["step"]


def wait_for_steps(process: subprocess.Popen[str], out: Path, count: int) -> None:
    deadline = time.monotonic() + 240
    while not (out / "events.jsonl").exists() or len(records(out)) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_asks_a_run_to_stop_unless_it_was_ignored_before() -> None:
    program = """
import signal
from cyclegan_fast.training.process import StopSignal

for number in (signal.SIGINT, signal.SIGTERM):
    for before in (signal.default_int_handler, signal.SIG_IGN):
        signal.signal(number, before)
        with StopSignal() as stop:
            signal.raise_signal(number)
        print(stop.requested, signal.getsignal(number) is before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["True True", "False True"] * 2 + [""]


SIGNALLED = """
import signal, sys
from cyclegan_fast.data.loaders.cache import CacheLoader
from cyclegan_fast.training import outputs, start, trainer
from cyclegan_fast.train import main

when, number, *words = sys.argv[1:]
where, name = {
    "images": (start, "build_train_loader"),
    "networks": (trainer, "_networks"),
    "loader": (CacheLoader, "prepare"),
    "samples": (outputs, "save_samples"),
}[when]
before = getattr(where, name)

def signalled(*args, **options):
    signal.raise_signal(int(number))
    return before(*args, **options)

setattr(where, name, signalled)
main(words)
"""


@pytest.mark.fault(12)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.usefixtures("default_sigint")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["images", "networks", "loader", "samples"])
def test_a_signal_before_the_first_step_ends_with_the_same_status(
    images: Path, tmp_path: Path, when: str, number: signal.Signals, user_sees: Recorder
) -> None:
    """Until the trainer runs there is nothing to save; from then on a checkpoint of step 0 is."""
    out = tmp_path / "run"
    words = ["--data", str(images), "--out", str(out), *SMALL, "--max-dataset-size", "6"]
    command = [sys.executable, "-c", SIGNALLED, when, str(int(number)), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3, done.stderr
    saved = when in ("loader", "samples")
    assert ("stopped by a signal before the first step: the same command starts it again" in done.stdout) != saved
    user_sees(done.stdout.splitlines()[-1])
    assert out.exists() == saved and (not saved or newest(out).name == "step_00000000")
    again = train("--data", images, "--out", out, *SMALL, "--max-dataset-size", 6, "--resume", "--max-steps", 1)
    assert again.returncode == 0, again.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_while_the_command_line_is_read_has_that_status_too() -> None:
    program = """
import signal
from cyclegan_fast import train
train.resolve = lambda *_: signal.raise_signal(signal.SIGTERM)
train.main(["--out", "nowhere"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (3, "interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_the_process_at_once(at_once: bool, number: signal.Signals, status: int) -> None:
    program = f"""
import contextlib, signal
from cyclegan_fast.training.process import StopSignal

signal.signal(signal.SIGINT, signal.default_int_handler)
with StopSignal(at_once={at_once}) as stop, stop:
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal({number:d})
    print("requested", stop.requested, flush=True)
    signal.raise_signal({number:d})
print("not reached")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "requested True\n", "")


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

    one_sentence(train("--data-A", images / "trainA", "--out", tmp_path / "z"), "--data-A and --data-B go together")
    one_sentence(train("--data", images, "--out", tmp_path / "y", *SMALL, "--generator", "resnet"), "resnet_<N>blocks")
    one_sentence(train("--data", images, "--out", tmp_path / "y", *SMALL, "--amp", "fp16"), "bf16")


@pytest.mark.fault(21)
@pytest.mark.skipif(
    "torch" in sys.modules and __import__("torch").cuda.is_available(), reason="needs a machine without CUDA"
)
def test_cuda_graphs_without_cuda(images: Path, tmp_path: Path, user_sees: Recorder) -> None:
    words = ["--data", images, *SMALL, "--max-steps", 1, "--out", tmp_path / "run"]
    refused = train(*words, "--cuda-graphs=on")
    one_sentence(refused, "--cuda-graphs=on: there is no CUDA device")
    user_sees(refused.stderr)
    alone = train(*words, "--cuda-graphs")
    assert alone.returncode == 0, alone.stderr
    assert "cuda graphs: off, there is no CUDA device" in alone.stdout


@pytest.mark.fault(18)
def test_resume_with_other_settings_lists_them(images: Path, tmp_path: Path, user_sees: Recorder) -> None:
    words = ["--data", images, *SMALL, "--out", tmp_path / "run", "--max-steps", 1]
    assert train(*words).returncode == 0
    one_sentence(train(*words), "--resume auto")
    done = train(*words, "--resume", "auto", "--lr", "1e-3", "--ngf", 8)
    one_sentence(done, "--lr was 0.0002, now 0.001", "--ngf was 4", f"--init-from {tmp_path / 'run'} --out ANOTHER")
    user_sees(done.stderr)


def test_starts_from_other_weights(images: Path, tmp_path: Path) -> None:
    words = ["--data", images, *SMALL, "--max-steps", 1, "--lr", "0"]
    assert train(*words, "--out", tmp_path / "first").returncode == 0
    again = train(*words, "--seed", 5, "--out", tmp_path / "second", "--init-from", tmp_path / "first")
    assert again.returncode == 0, again.stderr
    a, b = (load_file(newest(tmp_path / run) / "weights.safetensors") for run in ("first", "second"))
    assert all(a[key].equal(b[key]) for key in a)


@pytest.mark.fault(10)
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_loss_that_is_not_finite_stops_the_run(images: Path, tmp_path: Path, amp: str, user_sees: Recorder) -> None:
    out = tmp_path / "run"
    done = train("--data", images, "--out", out, *SMALL, "--max-steps", 200, "--lr", "1e30", "--amp", amp)
    one_sentence(done, "the loss ", "is not finite", "failed")
    user_sees(done.stderr)
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


@pytest.mark.parametrize(
    ("words", "amp", "out"),
    [
        ("--amp", "bf16", "runs/cyclegan"),
        ("--amp fp16", "fp16", "runs/cyclegan"),
        ("--amp=bf16", "bf16", "runs/cyclegan"),
        ("--amp --out x", "bf16", "x"),
        ("--out x --amp", "bf16", "x"),
        ("--amp=off --out=x --amp", "bf16", "x"),
        ("--amp --value-low -5 --amp off", "off", "runs/cyclegan"),
        ("", "off", "runs/cyclegan"),
    ],
)
def test_the_value_of_amp_is_optional(words: str, amp: str, out: str) -> None:
    settings = train_settings(words.split()).run
    assert (settings.amp, str(settings.out)) == (amp, out)


@pytest.mark.parametrize(
    ("words", "cuda_graphs", "side_by_side", "resume"),
    [
        ("--cuda-graphs --side-by-side --resume", "auto", "on", "auto"),
        ("--cuda_graphs --side_by_side off", "auto", "off", "off"),
        ("--cuda-graphs=on --side_by_side=on --resume=off", "on", "on", "off"),
        ("--cuda-graphs=true --side-by-side True --resume on", "auto", "on", "auto"),
        ("--cuda-graphs false --side-by-side false --resume=true", "off", "off", "auto"),
    ],
)
def test_further_flags_with_an_optional_value(words: str, cuda_graphs: str, side_by_side: str, resume: str) -> None:
    run = train_settings(words.split()).run
    assert (run.cuda_graphs, run.side_by_side, run.resume) == (cuda_graphs, side_by_side, resume)


def test_numbers_may_be_negative() -> None:
    data = train_settings(["--value-low", "-5", "--value-high=-1e-3", "--value-low-B", "-2e5", "--amp"]).data
    assert (data.value_low, data.value_high, data.value_low_B) == (-5.0, -1e-3, -2e5)


def test_the_last_config_file_counts_and_flags_override_it(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("optim: {lr: 1}\nrun: {amp: true}")
    second.write_text("optim: {lr: 3e-4, beta1: 0.25}")
    settings = train_settings(["--config", str(first), f"--config={second}", "--beta1", "0.75"])
    assert (settings.optim.lr, settings.optim.beta1, settings.run.amp) == (3e-4, 0.75, "off")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--amq", "--amp"),
        ("--amp --bach-size 2", "--batch-size"),
        ("--amp fp8", "'fp8'"),
        ("--config", "--config needs a path"),
    ],
)
def test_unknown_flags_and_values_are_named_with_the_nearest(words: str, message: str) -> None:
    done = train(*words.split())
    assert done.returncode == 2 and "Traceback" not in done.stderr
    one_sentence(done, message)


def test_a_config_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    one_sentence(train("--config", tmp_path / "none.yaml"), "none.yaml does not exist")
    config = tmp_path / "config.yaml"
    for text, reason in (
        ("optim: {batchsize: 2}", "did you mean 'batch_size'"),
        ("optim: [", "is no valid YAML"),
        ("3", "expected groups of settings"),
        ("optim: {lr: -1}", "optim.lr must be from 0"),
    ):
        config.write_text(text)
        one_sentence(train("--config", config), "config.yaml", reason)
