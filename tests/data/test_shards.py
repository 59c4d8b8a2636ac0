"""What is remembered of tar shards: their index, and the manifest of their images."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.data.locations.domains import locate
from cyclegan_fast.data.locations.locations import find_images
from tests.data.sample_locations import make_images, make_shard, png, refused, settings


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
