"""Pairs of images, side by side in one file or in two folders, with every loader."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data import build_train_loader, check_images
from cyclegan_fast.data.locations.domains import locate
from cyclegan_fast.errors import UserError
from tests.data.sample_images import noise
from tests.data.sample_locations import (
    assert_same_images,
    batches,
    make_images,
    make_shard,
    png,
    settings,
    side_by_side,
)


@pytest.mark.parametrize("serial", [False, True])
def test_both_halves_of_an_image_are_a_pair(loader_name: str, tmp_path: Path, serial: bool) -> None:
    side_by_side(tmp_path / "train", 5)
    found = batches(settings(loader_name, data=tmp_path, paired=True, serial_batches=serial), 10)
    for batch in found:
        assert (batch["A"] + batch["B"]).abs().max() < 2.5 / 127.5  # resized, cropped and mirrored alike
    names = [batch["paths_A"][0] for batch in found]
    assert len(set(names[:5])) == 5 and (names[:5] == sorted(names[:5])) == serial
    assert all(name.endswith("(left half)") for name in names)


def test_an_image_of_odd_width_loses_its_middle_column(tmp_path: Path) -> None:
    from dataclasses import replace

    from cyclegan_fast.images.decode import PixelFormat, read
    from cyclegan_fast.images.image_file import ImageFile

    pixels = np.asarray(noise(9, 5))
    Image.fromarray(pixels).save(tmp_path / "x.png")
    left = ImageFile(str(tmp_path / "x.png"), half="left")
    right = replace(left, half="right")
    assert np.array_equal(read(left, PixelFormat()), pixels[:, :4]) and np.array_equal(
        read(right, PixelFormat()), pixels[:, 5:]
    )
    assert [image.size for image in check_images([left, right])] == [(4, 5)] * 2  # type: ignore[union-attr]


def test_two_folders_are_paired_by_name(loader_name: str, tmp_path: Path) -> None:
    for i, path in enumerate(make_images(tmp_path / "trainA", 5)):
        (tmp_path / "trainB").mkdir(exist_ok=True)
        Image.fromarray(255 - np.asarray(noise(40, 36, seed=i))).save(tmp_path / "trainB" / f"{path.stem}.bmp")
    for batch in batches(settings(loader_name, data=tmp_path, paired=True), 10):
        assert (batch["A"] + batch["B"]).abs().max() < 2.5 / 127.5
        assert Path(batch["paths_A"][0]).stem == Path(batch["paths_B"][0]).stem


def test_a_bad_image_takes_its_partner_with_it(loader_name: str, tmp_path: Path) -> None:
    make_images(tmp_path / "trainA", 5)
    make_images(tmp_path / "trainB", 5, seed=50)
    (tmp_path / "trainB" / "2.png").write_bytes(b"")
    (tmp_path / "quarantine.txt").write_text("trainA/4.png\n")
    found = batches(settings(loader_name, data=tmp_path, paired=True, on_bad_image="skip"), 9)
    assert {Path(batch["paths_A"][0]).stem for batch in found} == {"0", "1", "3"}
    assert all(Path(b["paths_A"][0]).stem == Path(b["paths_B"][0]).stem for b in found)


def test_one_of_a_pair_that_goes_bad_later_ends_the_run(loader_name: str, tmp_path: Path) -> None:
    make_images(tmp_path / "trainA", 3)
    make_images(tmp_path / "trainB", 3, seed=50)
    config = settings(loader_name, data=tmp_path, paired=True, on_bad_image="skip", serial_batches=True)
    with build_train_loader(config, "cpu") as loader:
        (tmp_path / "trainB" / "1.png").unlink()
        with pytest.raises(UserError, match=r"trainB/1\.png"):
            list(islice(loader, 3))


def test_names_that_come_twice_are_distinguished_by_their_folders(tmp_path: Path) -> None:
    for day in ("mon", "tue"):
        make_images(tmp_path / "x" / day, 2)
    members = {f"{day}/{i}.jpg": png(50 + i) for day in ("tue", "mon") for i in range(2)}
    locations = {"data_A": (str(tmp_path / "x"),), "data_B": (str(make_shard(tmp_path / "b.tar", members)),)}
    images, partners = (domain.files for domain in locate(DataConfig(paired=True, **locations)))
    assert [source.member for source in partners] == ["mon/0.jpg", "mon/1.jpg", "tue/0.jpg", "tue/1.jpg"]
    assert [Path(source.path).parent.name for source in images] == ["mon", "mon", "tue", "tue"]
    (tmp_path / "x" / "mon" / "0.jpg").write_bytes(png(0))
    with pytest.raises(UserError, match=r"these come again: .*mon/0\.jpg"):
        locate(DataConfig(paired=True, **locations))


def test_a_folder_without_pairs_explains_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no pairs; --paired takes a folder train"):
        locate(DataConfig(data=tmp_path, paired=True))


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_direction_and_number_apply_to_pairs(loader_name: str, tmp_path: Path, direction: str) -> None:
    side_by_side(tmp_path / "train", 5)
    config = settings(
        loader_name, data=tmp_path, paired=True, direction=direction, max_dataset_size=3, serial_batches=True
    )
    found = batches(config, 4)
    first, second = ("left", "right") if direction == "AtoB" else ("right", "left")
    assert [batch["paths_A"][0] for batch in found] == [
        f"{tmp_path}/train/{i}.png ({first} half)" for i in (0, 1, 2, 0)
    ]
    assert all(batch["paths_B"][0].endswith(f"({second} half)") for batch in found)


def test_pairs_are_resumed_in_the_middle(loader_name: str, tmp_path: Path) -> None:
    side_by_side(tmp_path / "train", 5)
    config = settings(loader_name, data=tmp_path, paired=True)
    whole = batches(config, 9)
    with build_train_loader(config, "cpu") as loader:
        loader.load_state_dict({"sample": 3})
        assert_same_images(list(islice(loader, 6)), whole[3:])


def test_images_without_a_partner_are_named(tmp_path: Path) -> None:
    make_images(tmp_path / "trainA", 6)
    make_images(tmp_path / "trainB", 1)
    with pytest.raises(UserError, match=r"no partner.*1\.png.*2\.png.*3\.png and 2 more"):
        build_train_loader(settings("torch", data=tmp_path, paired=True), "cpu")


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_names_that_all_state_their_domain_match_without_it(tmp_path: Path, direction: str) -> None:
    """As in CycleGAN's maps, facades and cityscapes; where one does not state it, names count as they are."""
    for side in "AB":
        for path in make_images(tmp_path / f"train{side}", 3):
            path.rename(path.with_name(f"{path.stem}_{side}.png"))
    a, b = (domain.files for domain in locate(DataConfig(paired=True, data=tmp_path, direction=direction)))
    ends = ("_A", "_B") if direction == "AtoB" else ("_B", "_A")
    for images, end in ((a, ends[0]), (b, ends[1])):
        assert [Path(image.path).stem for image in images] == [f"{i}{end}" for i in range(3)]
    (tmp_path / "trainA" / "0_A.png").rename(tmp_path / "trainA" / "0.png")
    with pytest.raises(UserError, match=r"no partner.*0\.png.*1_A\.png.*2_A\.png and 3 more"):
        locate(DataConfig(paired=True, data=tmp_path))
