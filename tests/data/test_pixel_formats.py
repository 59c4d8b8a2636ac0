"""Domains of more than 8 bits and of other than 1 or 3 channels, from their files to the batches of every loader."""

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cyclegan_fast.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.data import build_train_loader, transforms
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.tiff import encode_tiff
from tests.data.sample_images import needs_deep, noise
from tests.images.test_high_bit_depth import deep, save
from tests.reliability import Recorder

ConfigFor = Callable[..., TrainConfig]


@pytest.fixture
def config_for(loader_name: str) -> ConfigFor:
    """Settings for a folder, with each loader that takes every depth in turn."""
    if loader_name == "dali":
        pytest.skip("the loader dali gives 8 bits only")

    def make(folder: Path, channels: tuple[int, int] = (1, 1), **data: Any) -> TrainConfig:
        settings = {"loader": loader_name, "load_size": 36, "crop_size": 32, "workers": 0} | data
        model = ModelConfig(channels_A=channels[0], channels_B=channels[1])
        return TrainConfig(data=DataConfig(data=folder, **settings), model=model, run=RunConfig(seed=3))

    return make


def fill(folder: Path, name: str, write: Callable[[Path, int], object], suffix: str, count: int = 3) -> None:
    (folder / name).mkdir(exist_ok=True)
    for i in range(count):
        write(folder / name / f"{i}{suffix}", i)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_16_bit_domain_is_found_logged_and_delivered_whole(
    config_for: ConfigFor, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    caplog.set_level(logging.INFO)
    fill(tmp_path, "trainA", lambda path, i: save(path, deep(40, 44, 1, seed=i)), ".png")
    fill(tmp_path, "trainB", lambda path, i: noise(40, 44, seed=i).save(path), ".jpg")
    config = config_for(tmp_path, (1, 3), preprocess="crop", workers=workers, serial_batches=True)
    with build_train_loader(config, "cpu") as loader:
        batches = list(islice(loader, 3))
        assert [domain.pixel_format.depth for domain in loader.samples.domains] == ["16", "8"]
        sample = loader.samples.draw(0)
    assert [line for line in caplog.messages if "depth" in line] == [
        "depth: A 16 bit (3 files 16 bit), B 8 bit (3 files 8 bit)"
    ]
    expected = transforms.crop(deep(40, 44, 1), config.data, sample.augmentation_A)
    levels = ((batches[0]["A"][0].permute(1, 2, 0) + 1) * 32767.5).round().int().numpy()
    assert np.array_equal(levels, expected) and len(np.unique(levels)) > 256
    assert batches[0]["A"].is_contiguous(memory_format=torch.channels_last)
    assert ((batches[0]["B"] + 1) * 127.5).sub(((batches[0]["B"] + 1) * 127.5).round()).abs().max() < 1e-3


def test_one_8_bit_file_makes_a_domain_8_bit_and_16_may_be_asked_for(
    config_for: ConfigFor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("trainA", "trainB"):
        fill(tmp_path, name, lambda path, i: save(path, deep(40, 44, 1, seed=i)), ".png")
    noise(40, 44).save(tmp_path / "trainA" / "9.jpg")
    loader = build_train_loader(config_for(tmp_path), "cpu")
    assert [domain.pixel_format.depth for domain in loader.samples.domains] == ["8", "16"]
    assert "A 8 bit (1 files 8 bit, 3 files 16 bit), B 16 bit" in caplog.text
    loader = build_train_loader(config_for(tmp_path, depth="16"), "cpu")
    assert [domain.pixel_format.depth for domain in loader.samples.domains] == ["16", "16"]
    with loader:
        assert all(batch["A"].shape == (1, 1, 32, 32) for batch in islice(loader, 8))


def float_folder(folder: Path) -> Path:
    def write(path: Path, i: int) -> None:
        save(path, np.random.default_rng(i).uniform(-1000, 3000, (40, 44, 1)).astype(np.float32))

    for name in ("trainA", "trainB"):
        fill(folder, name, write, ".tif")
    return folder


def test_floating_point_needs_a_range_and_the_error_names_the_extrema(config_for: ConfigFor, tmp_path: Path) -> None:
    float_folder(tmp_path)
    save(tmp_path / "trainA" / "1.tif", np.full((40, 44, 1), -1024.0, np.float32))
    save(tmp_path / "trainA" / "2.tif", np.full((40, 44, 1), 3071.0, np.float32))
    with pytest.raises(UserError, match=r"A hold values from -1024 to 3071.*--value-low -1024 --value-high 3071"):
        build_train_loader(config_for(tmp_path), "cpu")
    with pytest.raises(UserError, match="--value-low must be less than --value-high, got 5 and 5"):
        build_train_loader(config_for(tmp_path, value_low=5.0, value_high=5.0), "cpu")
    config = config_for(tmp_path, value_low=-1024.0, value_high=3071.0, value_high_B=3000.0, value_low_B=-1000.0)
    with build_train_loader(config, "cpu") as loader:
        pixel_formats = [
            (d.pixel_format.depth, d.pixel_format.low, d.pixel_format.high) for d in loader.samples.domains
        ]
        assert pixel_formats == [("float", -1024, 3071), ("float", -1000, 3000)]
        batches = list(islice(loader, 6))
    assert {float(b["A"].min()) for b in batches} >= {-1.0} and {float(b["A"].max()) for b in batches} >= {1.0}
    assert all(b["A"].abs().max() <= 1 for b in batches)


@pytest.mark.fault(5)
def test_clipped_values_are_counted_and_logged(
    config_for: ConfigFor, tmp_path: Path, caplog: pytest.LogCaptureFixture, user_sees: Recorder
) -> None:
    caplog.set_level(logging.INFO)
    float_folder(tmp_path)
    values = np.zeros((40, 44, 1), np.float32)
    values[:2, :5] = 7000.0
    save(tmp_path / "trainB" / "1.tif", values)
    build_train_loader(config_for(tmp_path, value_low=-1000.0, value_high=3000.0), "cpu")
    (message,) = [line for line in caplog.messages if "clipped" in line]
    user_sees(message)
    assert message == "B: 10 values (0.57 %) in 1 of 3 files lie outside -1000 to 3000 and are clipped"


def test_a_range_that_nothing_uses_is_refused(config_for: ConfigFor, good_folder: Path) -> None:
    with pytest.raises(UserError, match="--value-low and --value-high are for --depth float, and the images are 8 bit"):
        build_train_loader(config_for(good_folder, (3, 3), value_low=0.0), "cpu")


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_file_that_cannot_have_the_pixel_format_is_bad(config_for: ConfigFor, good_folder: Path, policy: str) -> None:
    stray = save(good_folder / "trainA" / "stray.tif", np.zeros((60, 60, 1), np.float32))
    config = config_for(good_folder, (3, 3), on_bad_image=policy)
    if policy == "error":
        with pytest.raises(UserError, match=r"stray\.tif: floating-point.*no known range"):
            build_train_loader(config, "cpu")
    else:
        samples = build_train_loader(config, "cpu").samples
        assert samples.counts == (7, 5) and str(stray) not in map(str, samples.domains[0].files)


@needs_deep
def test_many_channels_and_batches_of_them(config_for: ConfigFor, tmp_path: Path) -> None:
    fill(tmp_path, "trainA", lambda path, i: save(path, deep(40, 44, 1, seed=i)), ".png")
    fill(tmp_path, "trainB", lambda path, i: path.write_bytes(encode_tiff(deep(40, 44, 4, seed=i))), ".tif")
    config = config_for(tmp_path, (1, 4))
    config = TrainConfig(data=config.data, model=config.model, optim=OptimConfig(batch_size=2))
    with build_train_loader(config, "cpu") as loader:
        batch = next(loader)
    assert batch["A"].shape == (2, 1, 32, 32) and batch["B"].shape == (2, 4, 32, 32)
    with pytest.raises(
        UserError, match=r"B.0\.tif: it has 4 channels, and 3 are wanted.*none of the 3 files can be used"
    ):
        build_train_loader(config_for(tmp_path, (1, 3)), "cpu")
