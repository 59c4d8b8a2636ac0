"""Folders, lists and shards, one or several, with every loader; and what is refused of them."""

from __future__ import annotations

import os
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cyclegan_fast.config import DataConfig, ModelConfig, RunConfig, TrainConfig, from_dict, to_dict
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.data.audit.groups import list_groups
from cyclegan_fast.data.locations.domains import locate
from cyclegan_fast.data.locations.locations import find_images
from cyclegan_fast.errors import UserError
from cyclegan_fast.training.trainer import Trainer
from tests.data.sample_images import BAD_FILES
from tests.data.sample_locations import (
    assert_same_images,
    batches,
    make_images,
    make_shard,
    png,
    refused,
    settings,
    side_by_side,
)
from tests.data.test_folders import make_run


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


# ---- What is refused ----
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
        ({"data_A": x, "data_B": ("y",), "test_A": x}, "--test-A and --test-B go together"),
        ({"data_A": x, "data_B": ("y",), "test_A": x, "test_B": x}, "--test-A and --test-B name the same images"),
        ({"data": tmp_path, "test_A": x, "test_B": ("y",)}, "--test-A and --test-B go with --data-A and --data-B; "),
        ({"test_B": x}, "--test-A and --test-B go with --data-A and --data-B; "),
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
