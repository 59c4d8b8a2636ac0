"""The test images that a run is scored by: which they are, in pairs and without, and what becomes of bad ones."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.config import DataConfig, PixelFormat
from cyclegan_fast.data.loaders.samples import Domain
from cyclegan_fast.data.scored_images import Images, describe_geometry, describe_images, read_test_images, set_digest
from cyclegan_fast.errors import UserError
from tests.data.sample_images import noise


def write(folder: Path, count: int, size: tuple[int, int] = (44, 36)) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        noise(*size, seed=i + 100 * len(folder.name)).save(folder / f"{i}.png")
    return folder


def read(data: Path | None, *, count: int = 4, channels: int = 3, **changes: Any) -> Images:
    config = DataConfig(**{"data": data, "load_size": 36, "crop_size": 32} | changes)
    domains = [Domain([], np.empty((0, 2), np.int32), PixelFormat(channels=channels))] * 2
    return read_test_images(config, domains, count=count, min_size=24)


def names(images: Images) -> list[list[str]]:
    return [[image.name for image in side] for side in images]


def test_a_random_sample_of_both_domains_the_same_every_time(tmp_path: Path) -> None:
    write(tmp_path / "testA", 9)
    write(tmp_path / "testB", 7)
    found = read(tmp_path)
    assert [len(set(side)) for side in names(found)] == [4, 4] and names(read(tmp_path)) == names(found)
    assert all(image.pixels.shape == (32, 32, 3) for side in found for image in side)
    assert names(read(tmp_path, direction="BtoA")) == names(found)[::-1]
    assert [len(side) for side in read(tmp_path, count=50)] == [9, 7]
    assert all(image.pixels.shape == (32, 32, 1) for side in read(tmp_path, channels=1) for image in side)


def test_another_set_of_as_many_images_of_that_size_is_described_as_another(tmp_path: Path) -> None:
    for name in ("one", "other", "turned"):
        write(tmp_path / name / "testA", 3)
        write(tmp_path / name / "testB", 3)
    noise(44, 36, seed=7).save(tmp_path / "other" / "testB" / "1.png")
    images = [noise(44, 36, seed=i + 500) for i in range(3)]
    for i, image in enumerate(images):
        image.save(tmp_path / "one" / "testA" / f"{i}.png")
        image.save(tmp_path / "other" / "testA" / f"{i}.png")
        images[2 - i].save(tmp_path / "turned" / "testA" / f"{i}.png")
    texts = [
        describe_images(read(tmp_path / name), DataConfig(data=tmp_path / name)) for name in ("one", "other", "turned")
    ]
    assert len(set(texts)) == 3 and len({text.split("(set ")[0] for text in texts}) == 1
    assert describe_images(read(tmp_path / "one"), DataConfig()) == texts[0]
    assert set_digest([np.zeros((2, 3, 1), np.uint8)]) != set_digest([np.zeros((3, 2, 1), np.uint8)])


def test_the_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "testA" / "far" / "below", 2)
    write(tmp_path / "testB", 2)
    for side, folder in zip(read(tmp_path), ("testA/far/below", "testB"), strict=True):
        assert sorted(image.source for image in side) == [str(tmp_path / folder / f"{i}.png") for i in range(2)]


def test_pairs_side_by_side_and_by_name(tmp_path: Path) -> None:
    write(tmp_path / "sides" / "train", 1, (80, 40))
    write(tmp_path / "sides" / "val", 6, (80, 40))
    for i, (a, b) in enumerate(zip(*read(tmp_path / "sides", paired=True, load_size=40, crop_size=40), strict=True)):
        assert a.name == b.name and i < 4
        whole = np.asarray(Image.open(tmp_path / "sides" / a.name))
        assert (np.hstack([a.pixels, b.pixels]) == whole).all()
    write(tmp_path / "two" / "testA", 6)
    write(tmp_path / "two" / "testB", 6)
    for a, b in zip(*read(tmp_path / "two", paired=True), strict=True):
        assert Path(a.name).name == Path(b.name).name and a.name != b.name


def test_bad_images_are_left_out_with_their_partner_and_others_take_their_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path / "testA", 5)
    write(tmp_path / "testB", 5)
    (tmp_path / "testB" / "3.png").write_bytes(b"damaged")
    found = read(tmp_path, paired=True)
    assert [len(side) for side in found] == [4, 4]
    assert all(Path(name).stem != "3" for side in names(found) for name in side)
    assert [len(side) for side in read(tmp_path, count=5)] == [5, 4]
    assert all(line.endswith("left out of the scores") for line in caplog.messages) and caplog.messages


@pytest.mark.parametrize("missing", ["testA", "testB", "both", "all bad"])
def test_one_domain_without_images_is_no_test_set(tmp_path: Path, missing: str) -> None:
    for name in ("testA", "testB"):
        if missing not in (name, "both"):
            write(tmp_path / name, 2)
    if missing == "all bad":
        for path in (tmp_path / "testB").iterdir():
            path.write_bytes(b"damaged")
    assert read(tmp_path) == ([], []) == read(None)


def test_the_geometry_is_described(tmp_path: Path) -> None:
    write(tmp_path / "testA", 3)
    write(tmp_path / "testB", 2)
    config = DataConfig(data=tmp_path, load_size=36, crop_size=32)
    digest = hashlib.sha256()
    for side in read(tmp_path):
        for image in side:
            digest.update(b"(32, 32, 3) uint8" + image.pixels.tobytes())
    which = f"(set {digest.hexdigest()[:8]})"
    expected = f"3 + 2 test images {which}, resized to 36x36 (bicubic), the middle 32x32"
    assert describe_images(read(tmp_path), config) == expected
    texts = {
        "scale_width": "resized to a width of 286 (bicubic), the middle 1024x1024 of larger ones",
        "scale_width_and_crop": "resized to a width of 286 (bicubic), the middle 256x256",
        "crop": "the middle 256x256",
        "none": "the middle 1024x1024 of larger ones",
    }
    assert {mode: describe_geometry(DataConfig(preprocess=mode)) for mode in texts} == texts  # type: ignore[arg-type]


def test_a_pair_of_which_one_is_quarantined_is_left_out(tmp_path: Path) -> None:
    for side in "AB":
        write(tmp_path / f"test{side}", 6)
    (tmp_path / "quarantine.txt").write_text("testA/1.png\ntestB/4.png\n")
    a, b = names(read(tmp_path, paired=True, count=50))
    assert sorted(a) == [f"testA/{i}.png" for i in (0, 2, 3, 5)] and [x.replace("A", "B") for x in a] == b
    apart = {f"test_{side}": (str(tmp_path / f"test{side}"),) for side in "AB"}
    assert len(read(None, data_A=("a",), data_B=("b",), paired=True, count=50, **apart)[0]) == 6  # its own list counts
    (tmp_path / "testA" / "quarantine.txt").write_text("1.png\n")
    a, b = names(read(None, data_A=("a",), data_B=("b",), paired=True, count=50, **apart))
    assert len(a) == 5 and [x.replace("A", "B") for x in a] == b


def test_pairs_of_two_sizes_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "testA", 3)
    write(tmp_path / "testB", 3, (44, 40))
    assert len(read(tmp_path, paired=True)[0]) == 3  # which get one size
    with pytest.raises(UserError, match=r"^--paired: .*testA/\d\.png is scored with 44x36 pixels and .* with 44x40: "):
        read(tmp_path, paired=True, preprocess="none")
    assert len(read(tmp_path, preprocess="none")[0]) == 3
