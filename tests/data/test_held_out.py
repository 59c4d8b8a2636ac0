"""The held-out images of the sample grids: which they are, wherever the data is, and what becomes of them."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.config import DataConfig, ModelConfig, TrainConfig
from cyclegan_fast.data.held_out import HeldOutImage, read_held_out
from cyclegan_fast.data.loaders.build import build_samples
from cyclegan_fast.images.decode import PixelFormat, read
from tests.data.sample_images import needs_deep, noise

Pair = tuple[list[HeldOutImage], list[HeldOutImage]]


def write(folder: Path, count: int, size: tuple[int, int] = (44, 36)) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        noise(*size, seed=i + 100 * len(folder.name)).save(folder / f"{i}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, count in (("trainA", 6), ("trainB", 5), ("testA", 9), ("testB", 7)):
        write(tmp_path / name, count)
    return tmp_path


def held_out(data: Path | None, *, channels: int = 3, **changes: Any) -> Pair:
    config = DataConfig(**{"data": data, "load_size": 36, "crop_size": 32} | changes)
    model = ModelConfig(channels_A=channels, channels_B=channels)
    samples = build_samples(TrainConfig(data=config, model=model), size_divisor=4, min_size=24)
    return read_held_out(config, samples.domains, min_size=24)


def names(images: list[HeldOutImage]) -> list[str]:
    return [image.name for image in images]


def test_four_test_images_of_each_domain_the_same_every_time(data: Path) -> None:
    a, b = held_out(data)
    for images, folder in ((a, "testA"), (b, "testB")):
        assert len(set(names(images))) == 4
        assert all(name.startswith(f"{folder}/") for name in names(images))
        assert all(image.pixels.shape == (32, 32, 3) for image in images)
    again = held_out(data)
    assert [names(images) for images in again] == [names(a), names(b)]
    assert all((x.pixels == y.pixels).all() for x, y in zip(a, again[0], strict=True))
    swapped = held_out(data, direction="BtoA")
    assert [names(images) for images in swapped] == [names(b), names(a)]


def test_a_sample_without_its_random_part(data: Path) -> None:
    image = held_out(data)[0][0]
    with Image.open(data / image.name) as file:
        whole = np.asarray(file.resize((36, 36), Image.Resampling.BICUBIC))
    assert np.array_equal(image.pixels, whole[2:34, 2:34])  # the middle, not mirrored


def test_training_images_where_there_are_no_test_images(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for path in (data / "testB").iterdir():
        path.unlink()
    a, b = held_out(data)
    assert names(a)[0].startswith("testA/") and names(b)[0].startswith("trainB/") and len(b) == 4
    assert "sample grids: 4 test images of A and 4 training images of B" in caplog.messages
    assert sum(line.endswith("; testB is passed over") for line in caplog.messages) == 1


def test_test_images_at_locations_of_their_own(data: Path, tmp_path: Path) -> None:
    """A list of some of them, and a shard; what their quarantine list names is left out."""
    (data / "a.txt").write_text("".join(f"testA/{i}.png\n" for i in range(3)))
    (data / "quarantine.txt").write_text("testA/1.png\n")
    with tarfile.open(data / "b.tar", "w") as archive:
        for i in range(5):
            archive.add(data / "testB" / f"{i}.png", f"member{i}.png")
    sides = {f"data_{x}": (str(data / f"train{x}"),) for x in "AB"}
    tests = {"test_A": (str(data / "a.txt"),), "test_B": (str(data / "b.tar"),)}
    a, b = held_out(None, **sides, **tests)
    assert sorted(names(a)) == ["testA/0.png", "testA/2.png"]
    assert len(set(names(b))) == 4 and all(name.startswith("member") for name in names(b))
    swapped = held_out(None, direction="BtoA", **sides, **tests)
    assert [names(images) for images in swapped] == [names(b), names(a)]
    assert all(name.startswith("trainA/") for name in names(held_out(None, **sides)[0]))


def test_a_bad_image_is_left_out_with_one_line_and_replaced(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = names(held_out(data)[0])
    (data / before[1]).write_bytes(b"no image")
    noise(30, 20).save(data / before[2])  # smaller than a crop
    caplog.clear()
    after = names(held_out(data, preprocess="crop", load_size=36)[0])
    assert len(after) == 4 and after[:2] == [before[0], before[3]]
    left_out = [line for line in caplog.messages if "left out of the sample grids" in line]
    assert len(left_out) == 2
    assert before[1] in left_out[0] and "30x20 pixels are too few" in left_out[1]


def test_quarantined_images_are_not_shown(data: Path) -> None:
    listed = names(held_out(data)[0])[0]
    (data / "quarantine.txt").write_text(f"{listed}\n")
    assert listed not in names(held_out(data)[0])


@pytest.mark.parametrize("test_folder", ["test", "val"])
def test_pairs_side_by_side(tmp_path: Path, test_folder: str) -> None:
    write(tmp_path / "train", 4, (80, 36))
    write(tmp_path / test_folder, 6, (80, 36))
    a, b = held_out(tmp_path, paired=True, preprocess="crop")
    assert names(a) == names(b) and all(name.startswith(f"{test_folder}/") for name in names(a))
    with Image.open(tmp_path / a[0].name) as whole:
        left, right = np.asarray(whole.crop((4, 2, 36, 34))), np.asarray(whole.crop((44, 2, 76, 34)))
    assert np.array_equal(a[0].pixels, left) and np.array_equal(b[0].pixels, right)


def test_shards_and_lists(data: Path) -> None:
    with tarfile.open(data / "a.tar", "w") as archive:
        for path in sorted((data / "trainA").iterdir()):
            archive.add(path, f"horses/{path.name}")
    (data / "b.txt").write_text("\n".join(f"testB/{i}.png" for i in range(3)))
    a, b = held_out(None, data_A=(str(data / "a.tar"),), data_B=(str(data / "b.txt"),))
    assert len(a) == 4 and all(name.startswith("horses/") for name in names(a))
    assert sorted(names(b)) == ["testB/0.png", "testB/1.png", "testB/2.png"]


def test_sixteen_bits_stay_sixteen(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(rng.integers(0, 65536, (40, 40), dtype=np.uint16)).save(tmp_path / name / f"{i}.png")
    images = held_out(tmp_path, channels=1, preprocess="crop")[0]
    stored = read(tmp_path / images[0].name, PixelFormat(channels=1, depth="16"))
    assert images[0].pixels.dtype == np.uint16
    assert np.array_equal(images[0].pixels, stored[4:36, 4:36])


@needs_deep
def test_many_channels(tmp_path: Path) -> None:
    import tifffile

    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB"):
        (tmp_path / name).mkdir()
        for i in range(2):
            pixels = rng.integers(0, 256, (40, 40, 6), dtype=np.uint8)
            tifffile.imwrite(tmp_path / name / f"{i}.tif", pixels, planarconfig="contig", photometric="minisblack")
    assert held_out(tmp_path, channels=6)[1][0].pixels.shape == (32, 32, 6)


def test_large_images_without_a_crop_show_their_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan_fast.data.held_out.MAX_SIDE", 28)
    for name in ("trainA", "trainB"):
        write(tmp_path / name, 1, (60, 24))
    image = held_out(tmp_path, preprocess="none")[0][0]
    with Image.open(tmp_path / image.name) as whole:
        assert np.array_equal(image.pixels, np.asarray(whole)[:, 16:44])
