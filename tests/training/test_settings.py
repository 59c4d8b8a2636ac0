"""Every setting that shapes a run trains two steps, and its checkpoint translates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cyclegan_fast
from cyclegan_fast.train import parse
from cyclegan_fast.training.trainer import Trainer

FLAGS = (
    "--generator resnet_1blocks --ngf 4 --ndf 4 --load-size 36 --crop-size 32 --device cpu --workers 0 --max-steps 2"
)
CASES = {
    "unet": "--generator unet_32",
    "pixel critic": "--discriminator pixel",
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
    "grey to colour": "--channels-A 1 --lambda-identity 0",
    "grey": "--channels-A 1 --channels-B 1",
    "contiguous": "--no-channels-last",
    "plateau": "--lr-policy plateau --epoch-size 1",
    "cosine, xavier": "--lr-policy cosine --init-type xavier --epoch-size 1",
    "kaiming": "--init-type kaiming",
    "orthogonal": "--init-type orthogonal",
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
    command = parse(["--data", str(data), "--out", str(out), *FLAGS.split(), *flags.split()])
    assert Trainer(command.settings(), say=lambda text: None).run() == 0


@pytest.mark.parametrize("name", CASES)
def test_trains_and_translates(data: Path, tmp_path: Path, name: str) -> None:
    run(data, tmp_path / "run", CASES[name])
    engine = cyclegan_fast.load_engine(tmp_path / "run", direction="BtoA", device="cpu")
    picture = Image.effect_noise((45, 37), 60).convert("RGB" if engine.in_channels == 3 else "L")
    made = cyclegan_fast.infer(engine, picture)
    assert made.size == picture.size
    assert np.asarray(made).std() > 0
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_compiled_networks_train_alike(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "eager", "--log-every 1")
    run(data, tmp_path / "compiled", "--log-every 1 --compile")
    from cyclegan_fast.monitoring.events import read_events

    for a, b in zip(read_events(tmp_path / "eager"), read_events(tmp_path / "compiled"), strict=True):
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-3)
