"""Lists, shards, several locations and pairs, with every loader; and what is refused of them."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.config import DataConfig, ModelConfig, RunConfig, TrainConfig, from_dict, to_dict
from cyclegan_fast.data import build_train_loader, check_images
from cyclegan_fast.data.audit.groups import list_groups
from cyclegan_fast.data.locations.domains import locate
from cyclegan_fast.data.locations.locations import find_images
from cyclegan_fast.errors import UserError
from cyclegan_fast.training.trainer import Trainer
from tests.data.sample_images import BAD_FILES, noise
from tests.data.test_folders import make_run


def make_images(folder: Path, count: int, seed: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        noise(40, 36, seed=seed + i).save(path)
    return paths


def make_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def png(seed: int) -> bytes:
    out = io.BytesIO()
    noise(40, 36, seed=seed).save(out, "PNG")
    return out.getvalue()


def settings(loader_name: str, **data: Any) -> TrainConfig:
    options = {"loader": loader_name, "load_size": 36, "crop_size": 32, "workers": 0} | data
    return TrainConfig(data=DataConfig(**options), run=RunConfig(seed=3))


def batches(config: TrainConfig, count: int) -> list[dict[str, Any]]:
    with build_train_loader(config, "cpu") as loader:
        return list(islice(loader, count))


def assert_same_images(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a["A"], b["A"]) and torch.equal(a["B"], b["B"])


# ---- Each kind of location gives what the folder gives ----
def test_a_list_gives_what_its_folder_gives(loader_name: str, tmp_path: Path) -> None:
    make_images(tmp_path / "set" / "trainA", 5)
    make_images(tmp_path / "set" / "trainB", 4, seed=50)
    (tmp_path / "a.txt").write_text("# the images of A\n" + "\n".join(f"set/trainA/{i}.png" for i in range(5)) + "\n\n")
    listed = settings(loader_name, data_A=(str(tmp_path / "a.txt"),), data_B=(str(tmp_path / "set" / "trainB"),))
    assert_same_images(batches(listed, 8), batches(settings(loader_name, data=tmp_path / "set"), 8))


def test_shards_give_what_their_members_give_as_files(loader_name: str, tmp_path: Path) -> None:
    for shard in range(3):
        members = {f"{shard}{i}.{end}": png(10 * shard + i) for i in range(2) for end in ("png",)}
        members |= {f"{shard}{i}.json": b"{}" for i in range(2)}
        make_shard(tmp_path / f"a-{shard:03d}.tar", members)
        for name, content in members.items():
            if name.endswith("png"):
                (tmp_path / "set" / "trainA").mkdir(parents=True, exist_ok=True)
                (tmp_path / "set" / "trainA" / name).write_bytes(content)
    make_images(tmp_path / "set" / "trainB", 4, seed=50)
    expected = batches(settings(loader_name, data=tmp_path / "set"), 14)
    for pattern in ("a-{000..002}.tar", "a-*.tar"):
        locations = settings(loader_name, data_A=(str(tmp_path / pattern),), data_B=(str(tmp_path / "set" / "trainB"),))
        assert_same_images(batches(locations, 14), expected)


def test_several_locations_follow_one_another(tmp_path: Path) -> None:
    first, second = make_images(tmp_path / "x", 2), make_images(tmp_path / "y", 3)
    found = find_images([str(tmp_path / "y"), str(tmp_path / "x")])
    assert [source.path for source in found] == [str(path) for path in second + first]


def test_direction_and_number_apply_to_locations(loader_name: str, tmp_path: Path) -> None:
    make_images(tmp_path / "x", 5)
    make_images(tmp_path / "y", 4, seed=50)
    locations = {"data_A": (str(tmp_path / "x"),), "data_B": (str(tmp_path / "y"),)}
    swapped = batches(settings(loader_name, direction="BtoA", max_dataset_size=2, **locations), 12)
    assert {Path(b["paths_A"][0]).parent.name for b in swapped} == {"y"}
    assert len({b["paths_A"][0] for b in swapped}) == len({b["paths_B"][0] for b in swapped}) == 2


def test_shards_are_resumed_in_the_middle(loader_name: str, tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a.tar", {f"{i}.png": png(i) for i in range(6)})
    make_images(tmp_path / "y", 4, seed=50)
    config = settings(loader_name, data_A=(str(shard),), data_B=(str(tmp_path / "y"),))
    whole = batches(config, 10)
    with build_train_loader(config, "cpu") as loader:
        loader.load_state_dict({"sample": 4})
        assert_same_images(list(islice(loader, 6)), whole[4:])


# ---- Pairs ----
def side_by_side(folder: Path, count: int) -> None:
    """A above 128 and B its negative, so that a pair is known by its sum."""
    folder.mkdir(parents=True)
    for i in range(count):
        left = np.asarray(noise(40, 36, seed=i))
        Image.fromarray(np.concatenate([left, 255 - left], axis=1)).save(folder / f"{i}.png")


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


# ---- What is refused ----
def refused(location: str) -> str:
    with pytest.raises(UserError) as caught:
        find_images([location])
    return str(caught.value)


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png"])
def test_a_member_that_leads_out_of_its_shard_is_refused(tmp_path: Path, name: str) -> None:
    assert "leads out" in refused(str(make_shard(tmp_path / "a.tar", {"0.png": png(0), name: png(1)})))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_shard_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("x.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    assert "link or a device" in refused(str(tmp_path / "a.tar"))


def test_hidden_members_are_left_out_and_other_kinds_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hidden = ["._0.png", "__MACOSX/0.png", "./.ipynb_checkpoints/0.png", "@eaDir/0.png"]
    for i in range(2):
        others = {f"{i}.heic": b"x", f"{i}.dcm": b"x"}
        names = ["./0.png", "a/1.png", *hidden]
        make_shard(tmp_path / f"{i}.tar", {name: png(i) for name in names} | others)
    found = find_images([str(tmp_path / "*.tar")])
    assert [image.member for image in found] == ["./0.png", "a/1.png"] * 2
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}/*.tar: passes over 2 .heic, 2 .dcm, which are not read; convert them to")
    other = make_shard(tmp_path / "c.tar", {"0.heic": b"x"})
    assert "holds no image that is read, but 1 of other kinds" in refused(str(other))


@pytest.mark.parametrize("packing", ["gz", "xz"])
@pytest.mark.parametrize("honest", [True, False])
def test_a_compressed_shard_is_named_as_such(tmp_path: Path, packing: str, honest: bool) -> None:
    path = tmp_path / (f"a.tar.{packing}" if honest else "a.tar")
    with tarfile.open(path, f"w:{packing}") as archive:  # type: ignore[call-overload]
        archive.add(make_images(tmp_path / "x", 1)[0], "x.png")
    assert "compressed" in refused(str(path))


def test_a_shard_cut_off_is_damaged(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a.tar", {f"{i}.png": png(i) for i in range(4)})
    content = shard.read_bytes()
    last = find_images([str(shard)])[-1]
    between = last.offset - tarfile.BLOCKSIZE  # as if there had never been a fourth
    for length in (last.offset + last.length // 2, last.offset - 100, between, 700, 100):
        shard.write_bytes(content[:length])
        assert "damaged" in refused(str(shard))
    shard.write_bytes(bytes(range(1, 129)) * 32)
    assert "damaged" in refused(str(shard))


def test_locations_that_give_nothing_explain_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    (tmp_path / "gone.txt").write_text("no/such.png\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "x.csv").write_text("a,b\n")
    make_shard(tmp_path / "texts.tar", {"a.txt": b"x"})
    (tmp_path / "shards" / "deep").mkdir(parents=True)
    make_shard(tmp_path / "shards" / "deep" / "0.tar", {"a.png": b"x"})
    expected = {
        "empty": "holds no image",
        "shards": f"name them: --data-A (or -B) '{tmp_path / 'shards' / 'deep'}/*.tar'",
        "empty.txt": "names no image",
        "gone.txt": "no/such.png",
        "binary.txt": "UTF-8",
        "x.csv": "none of them",
        "missing": "is not there",
        "missing.tar": "no such shard",
        "a-{3..1}.tar": "empty",
        "texts.tar": "holds no image",
    }
    for name, words in expected.items():
        assert words in refused(str(tmp_path / name)), name


def test_the_advice_about_shards_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "it's [1] {a,b} *"
    folder.mkdir()
    shard = make_shard(folder / "0.tar", {"0.png": png(0)})
    (_, pattern) = shlex.split(refused(str(folder)).partition("name them: ")[2].replace(" (or -B)", ""))
    assert [file.path for file in find_images([pattern])] == [str(shard)]
    assert [file.path for file in find_images([str(shard)])] == [str(shard)]  # its name is no pattern


def test_locations_that_contradict_each_other(tmp_path: Path) -> None:
    make_images(tmp_path / "x", 2)
    x = (str(tmp_path / "x"),)
    for data, words in (
        ({"data_A": x}, "go together"),
        ({"data_A": x, "data_B": x}, "same images"),
        ({"data": tmp_path, "data_A": x, "data_B": x}, "one or the other"),
        ({}, "--data is missing"),
    ):
        with pytest.raises(UserError, match=words):
            build_train_loader(settings("torch", **data), "cpu")


@pytest.mark.parametrize("name", sorted(BAD_FILES))
def test_bad_members_of_a_shard_are_found_before_training(loader_name: str, tmp_path: Path, name: str) -> None:
    bad = tmp_path / name
    BAD_FILES[name](bad)
    shard = make_shard(tmp_path / "a.tar", {"0.png": png(0), name: bad.read_bytes(), "1.png": png(1)})
    locations = {"data_A": (str(shard),), "data_B": (str(make_images(tmp_path / "y", 2, seed=9)[0].parent),)}
    with pytest.raises(UserError, match=f"a.tar:{name}"):
        build_train_loader(settings(loader_name, **locations), "cpu")
    found = batches(settings(loader_name, on_bad_image="skip", **locations), 4)
    assert {b["paths_A"][0].split(":")[1] for b in found} == {"0.png", "1.png"}


# ---- The index of a shard ----
def many(path: Path, count: int = 600) -> Path:
    """A shard whose members' headers are worth keeping; they need not be images to be indexed."""
    return make_shard(path, {f"{i:04d}.{end}": bytes(i % 9) for i in range(count // 2) for end in ("png", "txt")})


def test_headers_are_read_once_and_again_when_the_shard_changes(tmp_path: Path) -> None:
    shard = many(tmp_path / "a.tar")
    first = find_images([str(shard)])
    stored = tmp_path / ".cyclegan_fast" / "shards" / "a.tar.json"
    assert len(first) == 300 and stored.exists()

    status = shard.stat()
    with shard.open("r+b") as file:  # unreadable, but with the length and time that the index knows
        file.write(bytes(tarfile.BLOCKSIZE))
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert find_images([str(shard)]) == first
    os.utime(shard)
    assert "no image" in refused(str(shard))  # an archive that begins with zeros is empty

    again = many(shard, count=800)
    assert len(find_images([str(again)])) == 400


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: stored.write_bytes(stored.read_bytes()[:-50]),
        lambda stored: stored.write_text("[]"),
        lambda stored: stored.write_text(stored.read_text().replace('"0000.png",512,', '"0000.png",99999999,')),
        lambda stored: stored.write_text(stored.read_text().replace('"0000.png",512,', '"0000.png","512",')),
    ],
    ids=["cut", "other", "outside", "type"],
)
def test_a_damaged_index_of_a_shard_is_made_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    shard = many(tmp_path / "a.tar")
    first = find_images([str(shard)])
    stored = tmp_path / ".cyclegan_fast" / "shards" / "a.tar.json"
    before = stored.read_bytes()
    damage(stored)
    assert stored.read_bytes() != before
    assert find_images([str(shard)]) == first and stored.read_bytes() == before


def test_beside_a_shard_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    shard = many(tmp_path / "data" / "a.tar")
    (tmp_path / "data" / ".cyclegan_fast").write_text("in the way of a folder")
    first = find_images([str(shard)])
    (stored,) = (tmp_path / "cache" / "cyclegan_fast" / "shards").iterdir()
    before = stored.stat().st_mtime_ns
    assert find_images([str(shard)]) == first and stored.stat().st_mtime_ns == before
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "data" / ".cyclegan_fast"))  # nowhere at all
    assert find_images([str(shard)]) == first


def test_small_shards_leave_no_trace(tmp_path: Path) -> None:
    find_images([str(many(tmp_path / "a.tar", count=100))])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("header_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_of_every_kind_of_archive(tmp_path: Path, header_format: int) -> None:
    name = "/".join(["a-folder-with-a-long-name"] * 5) + "/" + "x" * 60 + "-\u00fc.png"
    with tarfile.open(tmp_path / "a.tar", "w", format=header_format) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(png(0))
        archive.addfile(info, io.BytesIO(png(0)))
    (image,) = find_images([str(tmp_path / "a.tar")])
    assert image.member == name and image.read() == png(0)


def test_a_member_with_holes_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(2**20)
    subprocess.run(["tar", "--sparse", "-cf", "a.tar", "x.png"], cwd=tmp_path, check=True)
    assert "holes" in refused(str(tmp_path / "a.tar"))


def test_patterns_of_shards(tmp_path: Path) -> None:
    names = ["day/a-8.tar", "day/a-9.tar", "day/a-10.tar", "night/a-8.tar"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        make_shard(tmp_path / name, {"0.png": png(0)})
    for pattern, expected in (
        ("day/a-{8..10}.tar", names[:3]),
        ("{night,day}/a-8.tar", [names[3], names[0]]),
        ("*/a-8.tar", [names[0], names[3]]),
        ("{day,night}/a-?.tar", [names[0], names[1], names[3]]),
    ):
        found = [source.path for source in find_images([str(tmp_path / pattern)])]
        assert found == [str(tmp_path / name) for name in expected], pattern
    assert "day/a-11.tar" in refused(str(tmp_path / "day/a-{8..11}.tar"))


def test_the_manifest_of_shards_is_stored_beside_the_first(tmp_path: Path) -> None:
    for name in ("x/0.tar", "y/0.tar"):
        (tmp_path / name).parent.mkdir()
        make_shard(tmp_path / name, {"0.png": png(0), "1.png": png(1)})
    make_images(tmp_path / "b", 2, seed=9)
    (tmp_path / "x" / "quarantine.txt").write_text("0.tar:1.png\n")
    data = DataConfig(data_A=(str(tmp_path / "*" / "0.tar"),), data_B=(str(tmp_path / "b"),))
    assert [domain.catalog_folder for domain in locate(data)] == [tmp_path / "x", tmp_path / "b"]
    config = settings("torch", data_A=data.data_A, data_B=data.data_B)
    assert build_train_loader(config, "cpu").samples.counts == (3, 2)


# ---- What may not be read ----
@pytest.fixture
def locked_folder() -> Iterator[Path]:
    """Images beside a folder that nobody may read; the test is somebody who may not."""
    with tempfile.TemporaryDirectory() as parent:
        root, is_root = Path(parent), os.geteuid() == 0
        for name in ("trainA", "trainB", "trainA/locked"):
            make_images(root / name, 2, seed=len(name))
        make_shard(root / "trainA" / "locked" / "0.tar", {"0.png": png(0)})
        (root / "a.txt").write_text("trainA/0.png\ntrainA/locked/0.png\n")
        root.chmod(0o755)
        (root / "trainA" / "locked").chmod(0)
        if is_root:  # root reads whatever the mode is
            os.seteuid(65534)
        try:
            yield root
        finally:
            if is_root:
                os.seteuid(0)
            (root / "trainA" / "locked").chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("name", ["trainA", "trainA/locked", "a.txt", "trainA/locked/0.tar", "trainA/locked/deep"])
def test_what_may_not_be_read_is_one_sentence(locked_folder: Path, name: str) -> None:
    data = DataConfig(data_A=(str(locked_folder / name),), data_B=(str(locked_folder / "trainB"),))
    with pytest.raises(UserError, match="Permission denied") as error:
        locate(data)
    assert "trainA/locked" in str(error.value) and "\n" not in str(error.value)
    ((kind, domain, reason),) = [(f.kind, f.name, f.reason) for f in list_groups(data).findings]
    assert (kind, domain, reason) == ("folder", "trainA", str(error.value))


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("paired", [False, True])
def test_a_data_folder_that_may_not_be_read_is_one_sentence(locked_folder: Path, paired: bool) -> None:
    for folder in (locked_folder, locked_folder / "trainA" / "locked"):
        with pytest.raises(UserError, match=r"trainA/locked.* cannot be read \(Permission denied\)"):
            locate(DataConfig(data=folder, paired=paired))
    assert [finding.name for finding in list_groups(DataConfig(data=locked_folder)).findings] == ["trainA"]


# ---- Faults of every kind of location ----
def small_locations(kind: str, tmp_path: Path) -> dict[str, Any]:
    """Locations whose images are 40x36, or 20x36 where they are halves."""
    images = make_images(tmp_path / "x", 2)
    other = (str(make_images(tmp_path / "y", 2, seed=9)[0].parent),)
    (tmp_path / "x.txt").write_text("x/0.png\nx/1.png\n")
    make_shard(tmp_path / "x.tar", {path.name: path.read_bytes() for path in images})
    for folder, names in (("pairs", ["train"]), ("folder", ["trainA", "trainB"])):
        for i, name in enumerate(names):
            make_images(tmp_path / folder / name, 2, seed=i)
    return {
        "folder": {"data": tmp_path / "folder"},
        "location": {"data_A": (str(tmp_path / "x"),), "data_B": other},
        "list": {"data_A": (str(tmp_path / "x.txt"),), "data_B": other},
        "shard": {"data_A": (str(tmp_path / "x.tar"),), "data_B": other},
        "halves": {"data": tmp_path / "pairs", "paired": True},
        "paired": {"data": tmp_path / "folder", "paired": True},
    }[kind]


KINDS = ["folder", "location", "list", "shard", "halves", "paired"]


@pytest.mark.parametrize("kind", KINDS)
def test_images_smaller_than_the_crop(loader_name: str, tmp_path: Path, kind: str) -> None:
    data = small_locations(kind, tmp_path)
    too_large = 24 if kind == "halves" else 40
    if kind != "halves":  # no discriminator takes less than 24
        build_train_loader(settings(loader_name, preprocess="crop", crop_size=36, **data), "cpu")
    with pytest.raises(UserError, match=f"but the shorter side must be at least {too_large}"):
        build_train_loader(settings(loader_name, preprocess="crop", crop_size=too_large, **data), "cpu")


@pytest.mark.parametrize("kind", ["folder", "paired"])
def test_both_folders_cannot_be_one(tmp_path: Path, kind: str) -> None:
    data = small_locations(kind, tmp_path)
    shutil.rmtree(tmp_path / "folder" / "trainB")
    (tmp_path / "folder" / "trainB").symlink_to(tmp_path / "folder" / "trainA")
    with pytest.raises(UserError, match="same folder"):
        build_train_loader(settings("torch", **data), "cpu")


@pytest.mark.parametrize(("kind", "name"), [("location", "again"), ("list", "again.txt"), ("shard", "again.tar")])
def test_both_locations_cannot_be_one(tmp_path: Path, kind: str, name: str) -> None:
    data = small_locations(kind, tmp_path)
    (tmp_path / name).symlink_to(data["data_A"][0])
    with pytest.raises(UserError, match="same images"):
        build_train_loader(settings("torch", **data | {"data_B": (str(tmp_path / name),)}), "cpu")


@pytest.mark.parametrize("kind", ["folder", "location", "halves", "paired"])
def test_links_that_lead_out_of_a_folder_are_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    data = small_locations(kind, tmp_path)
    outside = make_images(tmp_path_factory.mktemp("outside"), 1)[0]
    folder = {"location": "x", "halves": "pairs/train"}.get(kind, "folder/trainA")
    (tmp_path / folder / "link.png").symlink_to(outside)
    with pytest.raises(UserError, match=r"link\.png: this link leads out"):
        build_train_loader(settings("torch", **data), "cpu")


def test_a_list_may_name_any_file(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = make_images(tmp_path_factory.mktemp("outside"), 2)
    (tmp_path / "lists").mkdir()
    (tmp_path / "here.png").symlink_to(outside[0])
    (tmp_path / "lists" / "a.txt").write_text(f"../here.png\r\n{outside[1]}\r\n", encoding="utf-8-sig", newline="")
    found = find_images([str(tmp_path / "lists" / "a.txt")])
    assert [source.read() for source in found] == [path.read_bytes() for path in outside]


def test_a_list_may_not_name_sample_grids_of_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = make_images(tmp_path / "x", 2)
    run = make_run(tmp_path / "x" / "run")
    make_images(run / "translated", 1)
    (tmp_path / "a.txt").write_text("x/0.png\nx/1.png\nx/run/samples/step_00000001.jpg\nx/run/translated/0.png\n")
    found = [file.path for file in find_images([str(tmp_path / "a.txt")])]
    assert found == [*map(str, images), str(run / "translated" / "0.png")]
    assert caplog.messages == [f"{tmp_path / 'a.txt'}: 1 sample grid of a training run left out"]


# ---- The settings ----
def test_locations_survive_yaml_and_one_may_stand_alone() -> None:
    config = settings("torch", data_A=("a", "b"), data_B=("c",))
    assert from_dict(TrainConfig, to_dict(config)) == config
    assert from_dict(DataConfig, {"data_A": "a"}).data_A == ("a",)
    for wrong in ([], 3, [3]):
        with pytest.raises(UserError, match="data_A"):
            from_dict(DataConfig, {"data_A": wrong})


def test_training_from_shards_and_from_pairs(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a.tar", {f"{i}.png": png(i) for i in range(3)})
    make_images(tmp_path / "y", 3, seed=9)
    side_by_side(tmp_path / "pairs" / "train", 3)
    sets = {"data_A": (str(shard),), "data_B": (str(tmp_path / "y"),)}, {"data": tmp_path / "pairs", "paired": True}
    for i, data in enumerate(sets):
        config = TrainConfig(
            model=ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4, discriminator="n_layers", n_layers=1),
            data=DataConfig(load_size=32, crop_size=32, workers=0, **data),  # type: ignore[arg-type]
            run=RunConfig(out=tmp_path / f"run{i}", device="cpu", max_steps=2, sample_every=0),
        )
        assert Trainer(config).run() == 0
