"""Every setting that shapes a run trains two steps, and its checkpoint translates."""

from __future__ import annotations

import importlib
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import cyclegan_fast
import cyclegan_fast.engine
from cyclegan_fast.demo import demo, settings
from cyclegan_fast.errors import UserError
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.training.trainer import Trainer
from tests.commands import train_settings
from tests.reliability import Recorder

FLAGS = (
    "--generator resnet_1blocks --ngf 4 --ndf 4 --load-size 36 --crop-size 32 --device cpu --workers 0 --max-steps 2"
)
CASES = {
    "unet": "--generator unet_32",
    "pixel discriminator": "--discriminator pixel",
    "batch norm": "--norm batch --batch-size 2",
    "no norm": "--norm none",
    "dropout": "--dropout",
    "unet with dropout and batch norm": "--generator unet_32 --dropout --norm batch --batch-size 2",
    "vanilla": "--gan-mode vanilla",
    "wgangp": "--gan-mode wgangp",
    "wgangp bf16": "--gan-mode wgangp --amp",
    "hinge": "--gan-mode hinge",
    "gan alone": "--lambda-A 0 --lambda-B 0",
    "cycle alone": "--lambda-gan 0 --lambda-identity 0",
    "forward cycle": "--lambda-B 0 --lambda-identity 0",
    "no pool": "--pool-size 0",
    "images of all sizes": "--preprocess none",
    "scale_width": "--preprocess scale_width --load-size 32",
    "scale_width_and_crop": "--preprocess scale_width_and_crop",
    "crop": "--preprocess crop",
    "serial, BtoA": "--serial-batches --direction BtoA --no-flip",
    "grey to colour": "--channels-A 1",
    "grey": "--channels-A 1 --channels-B 1",
    "contiguous": "--no-channels-last",
    "plateau": "--lr-policy plateau --epoch-size 1",
    "cosine, xavier": "--lr-policy cosine --init-type xavier --epoch-size 1",
    "kaiming": "--init-type kaiming",
    "orthogonal": "--init-type orthogonal",
    "micro-batches": "--batch-size 2 --grad-accumulation 2",
    "micro-batches, batch norm": "--norm batch --batch-size 2 --grad-accumulation 2",
    "one cycle after the other": "--side-by-side off",
    "recomputed activations": "--activation-checkpointing --dropout",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for domain in ("trainA", "trainB"):
        (root / domain).mkdir()
        for i in range(4):
            height, width = rng.integers(40, 60, 2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / domain / f"{i}.png")
    return root


def run(data: Path, out: Path, flags: str) -> None:
    words = ["--data", str(data), "--out", str(out), *FLAGS.split(), *flags.split()]
    assert Trainer(train_settings(words)).run() == 0


def test_the_identity_loss_is_off_where_channels_differ_and_that_is_logged(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run(data, tmp_path / "run", "--channels-A 1")
    assert "identity loss: off, images of A have 1 channel(s) and those of B 3" in caplog.messages
    caplog.clear()
    run(data, tmp_path / "other", "--channels-A 1 --channels-B 1")
    assert caplog.messages and "identity loss" not in caplog.text


@pytest.mark.parametrize("name", CASES)
def test_trains_and_translates(data: Path, tmp_path: Path, name: str) -> None:
    run(data, tmp_path / "run", CASES[name])
    engine = cyclegan_fast.load_engine(tmp_path / "run", direction="BtoA", device="cpu")
    image = Image.effect_noise((45, 37), 60).convert("RGB" if engine.in_channels == 3 else "L")
    translated = cyclegan_fast.infer(engine, image)
    assert translated.size == image.size
    assert np.asarray(translated).std() > 0
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_compiled_networks_train_alike(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "eager", "--log-every 1")
    run(data, tmp_path / "compiled", "--log-every 1 --compile")
    for a, b in zip(read_events(tmp_path / "eager"), read_events(tmp_path / "compiled"), strict=True):
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-3)


def test_a_step_is_an_update(data: Path, tmp_path: Path) -> None:
    """Four images of each domain, two micro-batches of one a step: two steps an epoch, and epochs count as ever."""
    flags = "--grad-accumulation 2 --log-every 1 --max-steps 5 --n-epochs 1 --n-epochs-decay 2"
    run(data, tmp_path / "run", flags)
    records = [r for r in read_events(tmp_path / "run") if "losses" in r]
    assert [(r["step"], r["epoch"]) for r in records] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)]
    assert [r["lr"] for r in records] == pytest.approx([2e-4, 2e-4, 2e-4 * 2 / 3, 2e-4 * 2 / 3, 2e-4 / 3])
    run(data, tmp_path / "batch", flags.replace("--grad-accumulation", "--batch-size"))
    assert records[0]["losses"] == pytest.approx(next(read_losses(tmp_path / "batch")), rel=1e-3)


def read_losses(out: Path) -> Iterator[dict[str, float]]:
    return (r["losses"] for r in read_events(out) if "losses" in r)


REFUSED = {
    "--grad-accumulation 0": "--grad-accumulation must be from 1",
    "--side-by-side --norm batch": "--side-by-side: both directions move the running statistics of --norm batch",
    "--grad-accumulation 2 --preprocess none": "do not fit one batch; use --batch-size 1 without --grad-accumulation",
    "--max-steps 0": "--max-steps must be at least 1",
    "--epoch-size -5": "--epoch-size must be at least 1",
    "--max-dataset-size -1": "--max-dataset-size must be at least 1",
    "--lambda-A -3": "--lambda-A must be from 0",
    "--log-every 0": "--log-every must be at least 1",
    "--keep-checkpoints -1": "--keep-checkpoints must be at least 0",
    "--lr nan": "--lr must be from 0",
    "--beta1 1.5": "--beta1 must be from 0",
    "--workers -1": "--workers must be from 0",
    "--seed 99999999999999999999": "--seed must be from 0",
    "--n-epochs 0 --n-epochs-decay 0": "nothing to train",
    "--n-layers 5": "--discriminator n_layers",
    "--channels-A 2 --channels-B 2": "it has 3 channels, and 2 are wanted",
    "--discriminator n_layers --n-layers 6": "--crop-size must be a multiple of 4 and at least 192",
    "--generator unet_128": "--crop-size must be a multiple of 128",
    "--generator unet_32 --preprocess none": "a --preprocess mode that crops",
    "--gan-mode wgangp --preprocess none": "--gan-mode wgangp",
    "--preprocess scale_width --load-size 20": "--load-size must be at least 24",
    "--crop-size 34": "--crop-size must be a multiple of 4",
    "--lambda-gan 0 --lambda-A 0 --lambda-B 0": "nothing to train",
    "--device tpu": "device must be auto, cpu, cuda",
    "--out /dev/null/x": "cannot use --out",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_settings_that_cannot_work_are_refused_in_one_sentence(data: Path, tmp_path: Path, flags: str) -> None:
    with pytest.raises(UserError, match=re.escape(REFUSED[flags])) as refused:
        run(data, tmp_path / "run", flags)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_panorama_that_becomes_too_low_is_named(data: Path, tmp_path: Path) -> None:
    for domain in ("trainA", "trainB"):
        (tmp_path / domain).mkdir()
        Image.new("RGB", (640, 40), (10, 90, 40)).save(tmp_path / domain / f"{domain}.png")
    with pytest.raises(UserError, match=r"trainA\.png becomes 64x4 pixels and these networks need 24"):
        run(tmp_path, tmp_path / "run", "--preprocess scale_width --load-size 64")


@pytest.mark.fault(18)
def test_resume_refuses_a_data_set_that_has_changed(data: Path, tmp_path: Path, user_sees: Recorder) -> None:
    shutil.copytree(data, tmp_path / "data")
    run(tmp_path / "data", tmp_path / "run", "--max-steps 1")
    shutil.copy(tmp_path / "data" / "trainA" / "0.png", tmp_path / "data" / "trainA" / "new.png")
    with pytest.raises(UserError, match=r"images were \[4, 4\], now \[5, 4\]") as error:
        run(tmp_path / "data", tmp_path / "run", "--resume auto")
    user_sees(error.value)


def test_a_finished_run_is_left_as_it_is(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", "")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    run(data, tmp_path / "run", "--resume auto")
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_the_demo_checks_before_it_replaces_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{}")
    (tmp_path / "report.html").write_text("the old one")
    with pytest.raises(UserError, match="device must be"):
        demo(tmp_path, device="tpu")
    with pytest.raises(UserError, match="--steps"):
        demo(tmp_path, steps=0)
    assert (tmp_path / "report.html").read_text() == "the old one"
    (tmp_path / "demo.json").unlink()
    with pytest.raises(UserError, match="not of an earlier demo"):
        demo(tmp_path, steps=1)


def test_the_demo_trains_as_many_steps_as_asked(tmp_path: Path) -> None:
    for steps in (1, 250, 3000):
        config = settings(tmp_path, steps, "cpu", "cache")
        assert config.run.max_steps == steps
        assert (config.optim.n_epochs + config.optim.n_epochs_decay) * 100 >= steps


def test_activation_checkpointing_reaches_both_generators_or_is_refused(data: Path, tmp_path: Path) -> None:
    flags = ["--data", str(data), "--out", str(tmp_path), *FLAGS.split(), "--activation-checkpointing"]
    networks = Trainer(train_settings(flags)).networks
    assert networks["G_A"].checkpoints_activations and networks["G_B"].checkpoints_activations
    for more in (["--norm", "batch"], ["--generator", "unet_32"]):
        with pytest.raises(UserError, match="--activation-checkpointing works for"):
            Trainer(train_settings([*flags, *more]))


@pytest.mark.parametrize("supported", [False, True])
def test_a_cpu_without_bfloat16_gets_a_warning(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, supported: bool
) -> None:
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: supported)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    conv2d = importlib.import_module("cyclegan_fast.ops.conv2d")
    monkeypatch.setattr(conv2d, "_isa", "avx2")  # our kernels widen bfloat16 as they read it
    for algorithm in ("torch", "winograd"):
        monkeypatch.setattr(conv2d, "_algorithm", algorithm)
        slow = algorithm == "torch" and not supported
        caplog.clear()
        Trainer(train_settings(["--data", str(data), "--out", str(tmp_path), *FLAGS.split(), "--amp"]))
        assert ("this CPU has no bfloat16" in caplog.text) == slow
        assert settings(tmp_path, 1, "cpu", "auto").run.amp == ("off" if slow else "bf16")


def test_starts_from_the_references_weights(data: Path, tmp_path: Path) -> None:
    """A folder of *_net_*.pth, and the one generator of a download."""
    run(data, tmp_path / "first", "--seed 1")
    folder, download = tmp_path / "reference", tmp_path / "horse2zebra_pretrained"
    cyclegan_fast.engine.build_engine(tmp_path / "first", folder / "latest_net_G_A.pth", direction="AtoB")
    cyclegan_fast.engine.build_engine(tmp_path / "first", folder / "latest_net_G_B.pth", direction="BtoA")
    download.mkdir()
    shutil.copy(folder / "latest_net_G_A.pth", download / "latest_net_G.pth")
    first = load_file(next((tmp_path / "first" / "checkpoints").iterdir()) / "weights.safetensors")
    for source, nets in ((folder, ["G_A", "G_B"]), (download, ["G_A"]), (download / "latest_net_G.pth", ["G_A"])):
        out = tmp_path / f"from_{source.name}_{len(nets)}_{source.is_dir()}"
        run(data, out, f"--lr 0 --seed 2 --init-from {source}")
        weights = load_file(next((out / "checkpoints").iterdir()) / "weights.safetensors")
        same = {key.split(".")[0] for key in weights if key.endswith("stem.weight") and weights[key].equal(first[key])}
        assert sorted(same) == nets
