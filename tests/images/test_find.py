"""Which files of a folder, or of a pattern, are images: hidden, unreadable and oddly named ones."""

import logging
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cyclegan_fast import logs
from cyclegan_fast.data.locations.shards import find_shards, read_shard
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.find import list_images, match_files, split_pattern
from cyclegan_fast.images.other_kinds import other_kind
from tests.data.sample_images import noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, one of them in a folder below."""
    for name in ("0.png", "1.JPG", "sub/2.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        noise(8, 8).save(tmp_path / "data" / name)
    return tmp_path / "data"


def names(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


HIDDEN = [
    "._0.png",  # AppleDouble: no image at all
    ".hidden.png",
    ".ipynb_checkpoints/0-checkpoint.png",
    "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
    "sub/@eaDir/2.png",
    "__MACOSX/0.png",
    "#recycle/0.png",
    "lost+found/0.png",
    "$RECYCLE.BIN/0.png",
    ".cyclegan_fast/contact_sheet.png",
]


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_files_are_no_images(folder: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    noise(8, 8).save(folder / name)
    (folder / "Thumbs.db").touch()
    assert names(list_images(folder), folder) == ["0.png", "1.JPG", "sub/2.png"]
    assert names(match_files(folder / "**" / "*.*"), folder) == ["0.png", "1.JPG", "Thumbs.db", "sub/2.png"]
    with tarfile.open(folder.parent / "s.tar", "w") as tar:
        tar.add(folder / "0.png", "./0.png")
        tar.add(folder / name, name)
    assert [image.member for image in read_shard(str(folder.parent / "s.tar"))[0]] == ["./0.png"]
    assert caplog.messages == []


def test_a_hidden_folder_may_be_named(tmp_path: Path) -> None:
    hidden = tmp_path / ".cache" / "@eaDir"
    hidden.mkdir(parents=True)
    noise(8, 8).save(hidden / "0.png")
    assert len(list_images(hidden)) == len(match_files(hidden / "*.png")) == 1
    assert len(match_files(tmp_path / ".cache" / "*" / "*.png")) == 0
    assert len(match_files(tmp_path / "*" / "@eaDir" / "*.png")) == 0  # a * is no dot
    assert len(match_files(tmp_path / ".c*" / "@eaDir" / "*.png")) == 1


def test_other_kinds_of_images_are_counted_and_reported_once(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_reported", set())
    for name in ("a.HEIC", "b.heic", "c.avif", "sub/d.nii.gz", "e.mp4", "notes.txt", "labels.json", "README"):
        (folder / name).touch()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert len(list_images(folder)) == 3
    (message,) = caplog.messages
    assert message.startswith(f"{folder}: passes over 2 .heic, 1 .avif, ") and "1 .nii.gz" in message
    assert "1 .mp4" in message and "convert them to PNG, JPEG or TIFF" in message and ".txt" not in message
    caplog.clear()
    assert len(list_images(folder, {".png", ".mp4"})) == 3  # a video, where videos are asked for
    assert ".mp4" not in caplog.text


def test_a_folder_of_other_kinds_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "slice.dcm").touch()
    with pytest.raises(UserError, match=r"holds no image that is read, but 1 \.dcm; export their slices"):
        list_images(tmp_path)
    assert other_kind("photo.jpg") == other_kind("x.gz") == other_kind("heic") == ""


def test_marks_of_patterns_in_names_that_exist(tmp_path: Path) -> None:
    folder = tmp_path / "p [2024]*"
    (folder / "in").mkdir(parents=True)
    (tmp_path / "p 2").mkdir()
    noise(8, 8).save(folder / "in" / "0[1].png")
    shutil.copy(folder / "in" / "0[1].png", tmp_path / "p 2" / "no.png")
    for pattern in ("in/*.png", "*/*.png", "**/*.png", "in/0[[]1].png"):
        assert split_pattern(folder / pattern)[0] in (folder, folder / "in")
        assert names(match_files(folder / pattern), folder) == ["in/0[1].png"], pattern
    assert names(match_files(folder / "in" / "0[1].png"), folder) == ["in/0[1].png"]  # the file itself, not 01.png
    assert names(match_files(tmp_path / "p [0-9]" / "*.png"), tmp_path) == ["p 2/no.png"]
    with tarfile.open(folder / "a-000.tar", "w") as tar:
        tar.add(folder / "in" / "0[1].png", "0.png")
    assert find_shards(f"{folder}/*.tar") == find_shards(f"{folder}/a-{{000..000}}.tar") == [f"{folder}/a-000.tar"]


def test_relative_patterns_and_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert match_files("*.png") == [Path("0.png")] and match_files("sub/*") == [Path("sub/2.png")]
    assert split_pattern("*.png") == (Path(), "*.png") and split_pattern("sub/*.png") == (Path("sub"), "*.png")


def test_links_that_lead_nowhere(folder: Path) -> None:
    (folder / "loop.png").symlink_to("loop.png")
    with pytest.raises(UserError, match=r"loop\.png: this link leads to itself"):
        list_images(folder)


def _link_out(folder: Path) -> str:
    outside = folder.parent / f"outside_{folder.name}.png"
    outside.touch()
    (folder / "a.png").symlink_to(outside)
    return f"{folder / 'a.png'}: this link leads out of the folder, to {outside}; copy the file instead; it is left out"


def _link_to_nothing_outside(folder: Path) -> str:
    (folder / "a.png").symlink_to(folder.parent / "none.png")
    return f"{folder / 'a.png'}: this link leads out of the folder, to {folder.parent / 'none.png'}; copy"


def _link_to_a_folder_outside(folder: Path) -> str:
    (folder / "up").symlink_to(folder.parent)
    return f"{folder / 'up'}: this link leads out of the folder, to {folder.parent}; copy"


def _link_to_itself(folder: Path) -> str:
    (folder / "a.png").symlink_to("a.png")
    return f"{folder / 'a.png'}: this link leads to itself; remove it; it is left out"


def _two_links_to_each_other(folder: Path) -> str:
    (folder / "a.png").symlink_to("b")
    (folder / "b").symlink_to("a.png")
    return f"{folder / 'a.png'}: this link leads to itself"


def _link_of_another_kind(folder: Path) -> str:
    (folder / "notes.txt").symlink_to(folder.parent / "none.txt")
    return ""


LINKS = (
    *(_link_out, _link_to_nothing_outside, _link_to_a_folder_outside, _link_to_itself, _two_links_to_each_other),
    _link_of_another_kind,
)


@pytest.mark.parametrize("link", LINKS)
def test_links_that_lead_out_are_refused_or_left_out(
    folder: Path, link: Callable[[Path], str], caplog: pytest.LogCaptureFixture
) -> None:
    before = list_images(folder)
    warning = link(folder)
    with pytest.raises(UserError, match="this link leads "):
        list_images(folder)
    assert list_images(folder, links_outside="skip") == before
    assert len(caplog.messages) == bool(warning) and caplog.text.count(warning or "x" * 99) == bool(warning)


def test_links_inside_are_followed_and_many_outside_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = list_images(folder)
    (folder / "inside.png").symlink_to("0.png")
    (folder / "sub" / "up").symlink_to("..")  # a loop of folders, which is not walked
    assert list_images(folder, links_outside="skip") == sorted([*before, folder / "inside.png"])
    for i in range(7):
        (folder / f"out{i}.png").symlink_to("/etc/hostname")
    list_images(folder, links_outside="skip")
    assert [message.count("leads out") for message in caplog.messages] == [1, 1, 1, 0]
    assert caplog.messages[-1] == f"{folder}: 4 more links lead out of it and are left out"
    (folder / "only").mkdir()
    (folder / "only" / "a.png").symlink_to("/etc/hostname")
    with pytest.raises(
        UserError, match=r"only: holds no image but 1 link that may not be followed: .*a\.png: this link"
    ):
        list_images(folder / "only", links_outside="skip")


LIST = "import sys; from cyclegan_fast.cli import with_errors; from cyclegan_fast.images.find import list_images;"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a matter of Unix")
def test_pipes_are_passed_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = list_images(folder)
    os.mkfifo(folder / "pipe.png")
    (folder / "linked.png").symlink_to("pipe.png")
    assert list_images(folder) == before
    assert [message.count("passed over") for message in caplog.messages] == [1, 1]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="root may read everything, and there is no unshare")
@pytest.mark.parametrize("name", ["secret", "lost+found", "."])
def test_folders_that_may_not_be_read(folder: Path, name: str) -> None:
    who = ["unshare", "--user", "--map-user=12345"] if os.geteuid() == 0 else []
    if subprocess.run([*who, "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    (folder / name).mkdir(exist_ok=True)
    (folder / name).chmod(0o000)
    try:
        code = f"{LIST} with_errors(lambda: print(len(list_images(__import__('pathlib').Path(sys.argv[1])))))"
        done = subprocess.run([*who, sys.executable, "-c", code, folder], capture_output=True, text=True)
    finally:
        (folder / name).chmod(0o700)
    if name == "lost+found":
        assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    else:
        assert done.returncode == 2 and done.stderr.startswith(f"error: {folder}"), done.stderr
        assert "Permission denied" in done.stderr and done.stderr.count("\n") == 1
