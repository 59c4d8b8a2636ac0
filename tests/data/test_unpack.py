"""Archives of data sets: what is taken, and what is refused."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from cyclegan_fast.data.unpack import unpack
from cyclegan_fast.dataset import main
from cyclegan_fast.errors import MissingFileError, UserError
from tests.commands import run_in_process
from tests.data.sample_images import noise

Pack = Callable[[Path, Mapping[str, bytes]], Path]


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise(16, 16, seed=seed).save(buffer, "JPEG")
    return buffer.getvalue()


UNPAIRED = {
    f"horse2zebra/{folder}/{i}.jpg": jpeg(i) for i in range(2) for folder in ("trainA", "trainB", "testA", "testB")
}
PAIRED = {f"./facades/{folder}/{i}.jpg": jpeg(i) for i in range(2) for folder in ("train", "val", "test")}


def pack_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("horse2zebra/", b"")
        for name, content in members.items():
            file.writestr(name, content)
    return path.with_suffix(".zip")


def pack_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(f"{path}.tar.gz", "w:gz") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return Path(f"{path}.tar.gz")


@pytest.fixture(params=[pack_zip, pack_tar])
def pack(request: pytest.FixtureRequest) -> Pack:
    return request.param


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("members", [UNPAIRED, PAIRED])
def test_the_images_of_a_set_are_laid_out_without_the_folder_around_them(
    tmp_path: Path, pack: Pack, members: dict[str, bytes]
) -> None:
    archive = pack(tmp_path / "set", {**members, "horse2zebra/README.txt": b"hello", "__MACOSX/trainA/._0.jpg": b""})
    found = unpack(archive, tmp_path / "out")
    assert found.left_out == 1 and sum(found.images.values()) == len(members)
    assert contents(tmp_path / "out") == {name.partition("2zebra/")[2] or name[10:]: members[name] for name in members}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([archive.name, "out"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../trainA/evil.jpg", r"leads out of the archive"),
        ("set/trainA/../../../evil.jpg", r"leads out of the archive"),
        ("/etc/trainA/evil.jpg", r"leads out of the archive"),
        ("C:/trainA/evil.jpg", r"leads out of the archive"),
        ("trainA\\..\\..\\evil.jpg", r"leads out of the archive"),
        ("other/trainA/0.jpg", r"holds several data sets, in 'horse2zebra' and 'other'"),
    ],
)
def test_members_that_are_refused(tmp_path: Path, pack: Pack, name: str, reason: str) -> None:
    archive = pack(tmp_path / "set", {**UNPAIRED, name: jpeg(9)})
    with pytest.raises(UserError, match=reason):
        unpack(archive, tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.rglob("evil*")) and not list((tmp_path / "a" / "b").iterdir())


def test_links_are_refused(tmp_path: Path) -> None:
    archive = pack_tar(tmp_path / "set", UNPAIRED)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        with tarfile.open(tmp_path / "links.tar", "w") as file:
            member = tarfile.TarInfo("set/trainA/0.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            file.addfile(member)
        with pytest.raises(UserError, match="is a link or a device"):
            unpack(tmp_path / "links.tar", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as zip_file:
        info = zipfile.ZipInfo("set/trainA/0.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zip_file.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="is a link or a device"):
        unpack(tmp_path / "links.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists() and archive.exists()


def test_archives_that_hold_no_set(tmp_path: Path, pack: Pack) -> None:
    for members, reason in (
        ({"a/0.jpg": jpeg(0)}, "holds no images in folders named trainA, trainB"),
        ({"a/trainA/0.jpg": jpeg(0)}, "holds trainA and no trainB: it is not whole"),
        ({"a/trainB/0.jpg": jpeg(0)}, "holds trainB and no trainA: it is not whole"),
    ):
        with pytest.raises(UserError, match=reason):
            unpack(pack(tmp_path / "set", members), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = unpack(pack(tmp_path / "ae_photos", {"ae_photos/testA/0.jpg": jpeg(0)}), tmp_path / "photos")
    assert found.images == {"testA": 1}


def test_damaged_archives_and_files_that_are_none(tmp_path: Path, pack: Pack) -> None:
    archive = pack(tmp_path / "set", UNPAIRED)
    content = archive.read_bytes()
    for damaged in (content[: len(content) // 2], content[:200] + b"\0" * 99 + content[299:], b"", b"text" * 999):
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match=r"this archive is damaged, or no \.zip or \.tar file"):
            unpack(archive, tmp_path / "out")
    with pytest.raises(MissingFileError, match="there is no such archive"):
        unpack(tmp_path / "missing.zip", tmp_path / "out")
    with pytest.raises(MissingFileError, match="URLs are not fetched: download the archive yourself"):
        unpack(Path("https://example.org/horse2zebra.zip"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_a_password_a_second_file_of_one_name_and_a_used_folder(tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "set", UNPAIRED)
    content = bytearray(archive.read_bytes())
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)  # of the first image, in the directory
    content[at + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="needs a password"):
        unpack(archive, tmp_path / "out")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "twice.zip", "w") as file:
        for _ in range(2):
            file.writestr("trainA/0.jpg", jpeg(0))
    with pytest.raises(UserError, match=r"holds 'trainA/0.jpg' twice"):
        unpack(tmp_path / "twice.zip", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="already holds files"):
        unpack(tmp_path / "twice.zip", tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine.txt": b"mine"}


def test_more_than_the_disk_has_is_not_begun(tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * 10**6))
    for name in ("trainA/{}.png", "notes/{}.txt"):
        archive = pack(tmp_path / "set", {name.format(i): bytes(10**6) for i in range(3)})  # a bomb: a few kB
        assert archive.stat().st_size < 10**5
        with pytest.raises(UserError, match="unpacks to more than is free on the disk"):
            unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_record_that_is_as_large_as_compression_makes_it_is_not_read(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("trainA/0.jpg")
    member.type, member.size = kind, 2**32
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as file:
        file.write(member.tobuf(tarfile.USTAR_FORMAT) + bytes(2**24))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="a member's name or record is too long"):
            unpack(tmp_path / "bomb.tar.gz", tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_what_the_disk_refuses_is_not_the_archives_fault(tmp_path: Path, pack: Pack) -> None:
    import resource

    archive = pack(tmp_path / "set", UNPAIRED)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(UserError, match=f"cannot write the data set .*: {os.strerror(errno.EFBIG)}"):
            unpack(archive, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_unpacking_leaves_no_folder_that_looks_whole(tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "set", {**UNPAIRED, "horse2zebra/trainA/large.jpg": bytes(10**8)})
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "cyclegan_fast.dataset", "unpack", str(archive), "--out", str(out)]
    )
    try:
        end = time.monotonic() + 60
        while not any(tmp_path.glob(".partial-*/trainA/large.jpg")) and time.monotonic() < end:
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait(60)
    assert process.returncode == -signal.SIGKILL and not out.exists()
    unpack(pack_tar(tmp_path / "set", UNPAIRED), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set.tar.gz", "set.zip"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pack_tar(tmp_path / "facades", {**PAIRED, "facades/list.txt": b""})
    done = run_in_process(lambda: main(["unpack", "facades.tar.gz"]))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "facades: train 2, val 2, test 2 images",
        "1 other files were left out",
        "python -m cyclegan_fast.dataset check facades --paired reads them all",
    ]
    done = run_in_process(lambda: main(["unpack", "facades.tar.gz"]))
    assert done.returncode == 2 and done.stderr.startswith("error: facades: already holds files")
