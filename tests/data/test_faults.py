"""Images and folders that are odd or wrong, with every loader: the same pixels, or the same sentence before training.

Damaged files, bombs and files that vanish are in test_loader.py, archives in test_locations.py and test_shards.py.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import shutil
import signal
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.config import DataConfig, ModelConfig, PixelFormat, TrainConfig
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.errors import UserError
from cyclegan_fast.images import to_model_range
from cyclegan_fast.images.decode import read
from tests.data.sample_images import ODD_FILES, noise, oriented
from tests.reliability import Recorder

SIDES = (75, 62)  # of what ODD_FILES writes


def settings(loader: str, folder: Path, channels: int = 3, **data: Any) -> TrainConfig:
    options: dict[str, Any] = {"data": folder, "loader": loader, "preprocess": "crop", "crop_size": 32, "workers": 0}
    model = ModelConfig(channels_A=channels, channels_B=channels)
    return TrainConfig(data=DataConfig(**options | {"flip": False} | data), model=model)


def both_folders(root: Path) -> list[Path]:
    folders = [root / "trainA", root / "trainB"]
    for folder in folders:
        folder.mkdir()
    return folders


def assert_cut_from(image: torch.Tensor, path: str, channels: int) -> None:
    """Whether an image [C, h, w] is a part of what the one rule makes of a file."""
    whole = to_model_range(torch.from_numpy(read(path, PixelFormat(channels=channels)))[None])[0]  # [C, H, W]
    height, width = image.shape[1:]
    windows = whole.unfold(1, height, 1).unfold(2, width, 1)  # [C, rows, columns, h, w]
    apart = (windows - image[:, None, None]).abs().amax(dim=(0, 3, 4))
    assert apart.min() < 1e-6, path


@pytest.mark.fault(4)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_turns_the_same_pixels(loader_name: str, tmp_path: Path, suffix: str) -> None:
    for folder in both_folders(tmp_path):
        for orientation in range(1, 9):
            oriented(folder / f"{orientation}.{suffix}", orientation)
    with build_train_loader(settings(loader_name, tmp_path, crop_size=56), "cpu") as loader:
        batches = list(islice(loader, 8))
    assert len({batch["paths_A"][0] for batch in batches}) == 8
    for batch in batches:
        assert_cut_from(batch["A"][0], batch["paths_A"][0], 3)


@pytest.mark.fault(5)
@pytest.mark.filterwarnings("ignore:animated files")
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_image_obeys_the_one_rule(loader_name: str, tmp_path: Path, channels: int) -> None:
    """16 bits, palette, CMYK, transparency, animations, wrong names."""
    for folder in both_folders(tmp_path):
        for name, write in ODD_FILES.items():
            write(folder / name)
    config = settings(loader_name, tmp_path, channels, depth="8", crop_size=60)  # few positions to compare with
    with build_train_loader(config, "cpu") as loader:
        batches = list(islice(loader, len(ODD_FILES)))
    assert len({batch["paths_A"][0] for batch in batches}) == len(ODD_FILES)
    for batch in batches:
        for side in "AB":
            assert_cut_from(batch[side][0], batch[f"paths_{side}"][0], channels)


@pytest.mark.fault(6)
def test_animations_are_counted_in_the_log(
    loader_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, user_sees: Recorder
) -> None:
    caplog.set_level(logging.INFO)
    for folder in both_folders(tmp_path):
        ODD_FILES["frames.gif"](folder / "a.gif")
    build_train_loader(settings(loader_name, tmp_path), "cpu")
    (message,) = [line for line in caplog.messages if line.startswith("of ")]
    user_sees(message)
    assert message.startswith("of 2 animated files only the first frame is used (") and "trainA/a.gif" in message


@pytest.mark.fault(5)
@pytest.mark.parametrize("kind", ["16 bit", "float"])
def test_high_bit_depths_are_delivered_whole_or_the_loader_refuses(
    loader_name: str, tmp_path: Path, kind: str, user_sees: Recorder
) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, SIDES[::-1], dtype=np.uint16)
    pixels = levels if kind == "16 bit" else levels.astype(np.float32) / 64.0
    for folder in both_folders(tmp_path):
        Image.fromarray(pixels).save(folder / "0.tif")
    ranges = {} if kind == "16 bit" else {"value_low": 0.0, "value_high": 65535 / 64}
    config = settings(loader_name, tmp_path, channels=1, crop_size=60, **ranges)
    if loader_name == "dali":
        with pytest.raises(UserError, match=r"^--loader dali: .* 8 bits.*; use --loader torch$") as error:
            build_train_loader(config, "cpu")
        user_sees(error.value)
        return
    with build_train_loader(config, "cpu") as loader:
        image = next(loader)["A"][0, 0]  # [60, 60]
    assert len(torch.unique(image)) > 3000  # of 3,600 pixels; 8 bits hold 256
    back = ((image.double() + 1.0) * 32767.5).round().numpy().astype(np.uint16)
    positions = [(y, x) for y in range(SIDES[1] - 59) for x in range(SIDES[0] - 59)]
    assert any(np.array_equal(levels[y : y + 60, x : x + 60], back) for y, x in positions)


def _empty(root: Path) -> None:
    shutil.rmtree(root / "trainA")
    (root / "trainA").mkdir()


def _one_folder(root: Path) -> None:
    shutil.rmtree(root / "trainB")
    (root / "trainB").symlink_to(root / "trainA")


def _link_out(root: Path) -> None:
    outside = root.parent / f"outside_{root.name}.jpg"
    noise(40, 40).save(outside)
    (root / "trainA" / "link.jpg").symlink_to(outside)


def _small(root: Path) -> None:
    noise(31, 40).save(root / "trainA" / "small.png")


@pytest.mark.fault(7, 9)
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_empty, r"trainA: holds no image"),
        (lambda root: shutil.rmtree(root / "trainB"), r"the folder trainB is missing"),
        (_one_folder, r"same folder"),
        (_small, r"small\.png: .*31x40.* at least 32"),
        (_link_out, r"link\.jpg: this link leads out"),
    ],
    ids=["empty", "missing", "same", "small", "link"],
)
def test_folders_that_cannot_be_trained_on(
    loader_name: str, good_folder: Path, spoil: Any, sentence: str, user_sees: Recorder
) -> None:
    spoil(good_folder)
    with pytest.raises(UserError, match=sentence) as error:
        build_train_loader(settings(loader_name, good_folder), "cpu")
    user_sees(error.value, 9 if spoil is _link_out else 7)


@pytest.mark.fault(9)
@pytest.mark.parametrize("name", ["../out.png", "/out.png", "link.png"])
def test_members_that_lead_out_of_an_archive(
    loader_name: str, good_folder: Path, name: str, user_sees: Recorder
) -> None:
    png = io.BytesIO()
    noise(40, 40).save(png, "PNG")
    with tarfile.open(good_folder / "a.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        if name == "link.png":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        else:
            member.size = len(png.getvalue())
        archive.addfile(member, io.BytesIO(png.getvalue()))
    locations = {"data": None, "data_A": (str(good_folder / "a.tar"),), "data_B": (str(good_folder / "trainB"),)}
    with pytest.raises(UserError, match=r"a\.tar: the member .* (leads out of|is a link)") as error:
        build_train_loader(settings(loader_name, good_folder, **locations), "cpu")
    user_sees(error.value)
    assert not (good_folder / name).exists()


def test_a_worker_that_is_killed_is_one_sentence(good_folder: Path) -> None:
    others = multiprocessing.active_children()  # of earlier tests
    with build_train_loader(settings("torch", good_folder, workers=1), "cpu") as loader:
        next(loader)
        (worker,) = (child for child in multiprocessing.active_children() if child not in others)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(UserError, match=r"a process that reads images .*killed.* --workers") as error:
            for _ in range(100):  # what was made before is delivered first
                next(loader)
    assert "\n" not in str(error.value)
