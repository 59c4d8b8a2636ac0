"""What ends a training run: where it stands afterwards, what the user sees, and that it goes on exactly."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cyclegan_fast.checkpoint import native
from cyclegan_fast.errors import UserError
from cyclegan_fast.training import settings as training_settings
from cyclegan_fast.training import trainer as trainer_module
from cyclegan_fast.training.trainer import Trainer
from tests.commands import train_settings
from tests.data.sample_images import noise
from tests.reliability import Recorder
from tests.training.test_train_command import newest, one_sentence, records, train, train_process, wait_for_steps

FLAGS = (
    "--generator resnet_1blocks --ngf 2 --ndf 2 --discriminator n_layers --n-layers 1 --load-size 20 --crop-size 16 "
    "--device cpu --workers 0 --log-every 1 --pool-size 3 --sample-every 0"
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """6 images of each domain."""
    root = tmp_path / "images"
    for domain in ("trainA", "trainB"):
        (root / domain).mkdir(parents=True)
        for i in range(6):
            noise(24, 22, seed=i).save(root / domain / f"{i}.png")
    return root


def trainer(images: Path, out: Path, *words: object, **options: Any) -> Trainer:
    return Trainer(
        train_settings(["--data", str(images), "--out", str(out), *FLAGS.split(), *map(str, words)]), **options
    )


def assert_same_end(one: Path, other: Path) -> None:
    assert newest(one).name == newest(other).name
    for name in ("weights.safetensors", "state.safetensors", "state.json"):
        assert (newest(one) / name).read_bytes() == (newest(other) / name).read_bytes(), name


# ---- Images.
@pytest.mark.fault(7)
@pytest.mark.parametrize("fault", ["empty", "missing", "same", "small"])
def test_folders_are_refused_before_any_network_is_built(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, user_sees: Recorder
) -> None:
    monkeypatch.setattr(trainer_module, "_networks", lambda *_: pytest.fail("too early"))
    if fault == "small":
        noise(15, 40).save(images / "trainB" / "small.png")
    else:
        shutil.rmtree(images / "trainB")
    if fault == "empty":
        (images / "trainB").mkdir()
    elif fault == "same":
        (images / "trainB").symlink_to(images / "trainA")
    done = train("--data", images, "--out", tmp_path / "run", *FLAGS.split(), "--preprocess", "crop")
    one_sentence(done, "trainB")
    user_sees(done.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(8)
@pytest.mark.parametrize("loader", ["torch", "dali"])  # the cache reads every file before the first step
def test_a_file_that_vanishes_costs_no_step(images: Path, tmp_path: Path, loader: str, user_sees: Recorder) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    words = ["--loader", loader, "--max-steps", 20]
    assert trainer(images, tmp_path / "straight", *words).run() == 0
    out, gone, aside = tmp_path / "run", images / "trainA" / "4.png", tmp_path / "4.png"

    def vanish(record: dict[str, Any]) -> None:
        if record["step"] == 2:
            gone.rename(aside)

    with pytest.raises(UserError, match=r"trainA/4\.png: .*it was good when training began: .* resume") as error:
        trainer(images, out, *words, on_log=vanish).run()
    user_sees(error.value)
    last = records(out)[-1]["step"]
    assert 2 <= last < 20 and newest(out).name == f"step_{last:08d}"
    aside.rename(gone)
    assert trainer(images, out, *words, "--resume").run() == 0
    assert_same_end(out, tmp_path / "straight")


# ---- Losses and gradients.
@pytest.fixture
def fp16_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU can, slowly; the command refuses it there."""
    monkeypatch.setattr(training_settings, "_check_precision", lambda *_: None)


@pytest.mark.fault(11)
@pytest.mark.usefixtures("fp16_on_the_cpu")
def test_gradients_that_overflow_in_every_step_of_fp16_end_the_run(
    images: Path, tmp_path: Path, user_sees: Recorder
) -> None:
    """The losses themselves are finite: it is their gradients for which 16 bits are too few, at every loss scale."""
    run = trainer(images, tmp_path / "run", "--amp", "fp16", "--lambda-A", "1e30", "--max-steps", 200)
    before = {name: value.clone() for name, value in run.networks.state_dict().items() if name[:3] in ("G_A", "G_B")}
    with pytest.raises(
        UserError,
        match=r"^step 17: fp16 overflows without end; the weights of the generators of before it, and those of the "
        r"discriminators, which were updated, are saved in .*; use --amp bf16, or ",
    ) as error:
        run.run()
    user_sees(error.value)
    weights = load_file(next((tmp_path / "run" / "failed").glob("step_*")) / "weights.safetensors")
    assert all(weights[name].equal(value) for name, value in before.items())
    assert [record["losses"]["cycle_A"] > 1e28 for record in records(tmp_path / "run")] == [True] * 16
    assert not list((tmp_path / "run" / "checkpoints").glob("step_*"))


@pytest.mark.fault(10)
@pytest.mark.usefixtures("fp16_on_the_cpu")
def test_a_loss_that_stays_infinite_in_fp16_is_named(images: Path, tmp_path: Path, user_sees: Recorder) -> None:
    run = trainer(images, tmp_path / "run", "--amp", "fp16", "--lr", "1e30", "--max-steps", 200)
    with pytest.raises(
        UserError, match=r"^step 17: the loss G_A and .* is not finite; .*; use --amp bf16, or lower --lr; "
    ) as error:
        run.run()
    user_sees(error.value)
    weights = load_file(next((tmp_path / "run" / "failed").glob("step_*")) / "weights.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.fault(10)
@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize(
    ("network", "of", "others"),
    [("G_A", "the generators", "the discriminators"), ("D_B", "the discriminators", "the generators")],
)
def test_a_gradient_that_is_not_finite_moves_no_weight(
    images: Path, tmp_path: Path, amp: str, network: str, of: str, others: str, user_sees: Recorder
) -> None:
    """Its losses are finite, and so are all other gradients."""
    run = trainer(images, tmp_path / "run", "--amp", amp, "--max-steps", 9)
    weights, before = run.networks[network], {}

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        if run.done < 3:
            return gradient
        before.update({name: value.clone() for name, value in weights.state_dict().items()})
        return gradient * torch.where(torch.arange(gradient.numel()).view_as(gradient) == 1, torch.inf, 1.0)

    next(weights.parameters()).register_hook(spoil)
    with pytest.raises(
        UserError,
        match=rf"^step 4: a gradient of {of} is not finite; the weights of {of} of before it, and those of {others}, "
        "which were updated, are saved in ",
    ) as error:
        run.run()
    user_sees(error.value)
    saved = load_file(next((tmp_path / "run" / "failed").glob("step_*")) / "weights.safetensors")
    assert before and all(saved[f"{network}.{name}"].equal(value) for name, value in before.items())
    assert all(value.isfinite().all() for value in saved.values())


# ---- Signals.
@pytest.mark.fault(12)
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_second_signal_ends_a_run_at_once_and_nothing_is_torn(
    images: Path, tmp_path: Path, user_sees: Recorder
) -> None:
    out = tmp_path / "run"
    words = ["--data", images, "--out", out, *FLAGS.split(), "--checkpoint-every", 1]
    process = train_process(*words, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    while not list((out / "checkpoints").glob("step_*")):
        wait_for_steps(process, out, len(records(out)) + 1 if (out / "events.jsonl").exists() else 1)
    process.send_signal(signal.SIGSTOP)  # so that both come within one step
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by a signal" not in output and not errors
    native.verify(newest(out))
    done = int(newest(out).name.removeprefix("step_"))
    again = train("--data", images, "--out", out, *FLAGS.split(), "--resume", "--max-steps", done + 2)
    assert again.returncode == 0, again.stderr
    user_sees(next(line for line in again.stdout.splitlines() if line.startswith("continuing")))


# ---- The disk.
@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A real disk of that size, which only root may mount."""
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mount.returncode:
        pytest.skip("cannot mount a small tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault(14)
def test_a_disk_that_is_full_where_a_checkpoint_is_due_ends_the_run(
    images: Path, tmp_path: Path, user_sees: Recorder
) -> None:
    words = ["--max-steps", 12, "--checkpoint-every", 3]
    assert trainer(images, tmp_path / "straight", *words).run() == 0
    with small_disk(tmp_path / "disk", "16m") as disk:
        out, filler = disk / "run", disk / "filler"

        def fill(record: dict[str, Any]) -> None:
            if record["step"] == 7:
                with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))

        reason = r"^cannot write the checkpoint of step \d+ in .* \(earlier ones are intact\): No space left on device$"
        with pytest.raises(UserError, match=reason) as error:
            trainer(images, out, *words, on_log=fill).run()
        user_sees(error.value)
        assert newest(out).name == "step_00000006"
        native.verify(newest(out))
        filler.unlink()
        assert trainer(images, out, *words, "--resume").run() == 0
        assert_same_end(out, tmp_path / "straight")
