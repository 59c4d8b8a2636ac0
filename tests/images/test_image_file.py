"""Sources in a table are what they were as objects."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from cyclegan_fast.images.image_file import ImageFile, ImageFileTable

SOURCES = [
    ImageFile("/a/b/0.png"),
    ImageFile("relative.png"),
    ImageFile("odd//name/ü \udcff.png"),
    ImageFile("/a/b/s.tar", "sub/0.png", 512, 7),
    ImageFile("/a/b/s.tar", "1.png", 2**40, 0),
    ImageFile("/a/b/2.png", half="left"),
    ImageFile("/a/b/2.png", half="right"),
]


def test_a_table_gives_back_what_was_put_in() -> None:
    table = ImageFileTable(SOURCES)
    assert list(table) == SOURCES == [table[i] for i in range(len(SOURCES))]
    assert table[-1] == SOURCES[-1] and list(table[2:5]) == SOURCES[2:5] and list(table[::-2]) == SOURCES[::-2]
    assert list(pickle.loads(pickle.dumps(table))) == SOURCES
    assert list(ImageFileTable()) == [] and SOURCES[3] in table and replace(SOURCES[3], length=8) not in table
    for outside in (len(SOURCES), -len(SOURCES) - 1):
        with pytest.raises(IndexError):
            table[outside]


def test_a_large_table_is_small_on_its_way_to_a_worker() -> None:
    files = ImageFileTable(ImageFile(f"/some/where/deep/trainA/{i % 50:03d}/{i:08d}.jpg") for i in range(20_000))
    members = ImageFileTable(ImageFile("/some/where/a.tar", f"{i:08d}.jpg", 4096 * i, 3000) for i in range(20_000))
    for table in (files, members):
        assert len(pickle.dumps(table)) < 64 * len(table)


def test_bytes_of_a_member(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"0123456789")
    member = ImageFileTable([ImageFile(str(tmp_path / "s.tar"), "x", 3, 4)])[0]
    assert member.read() == b"3456" and member.size == 4 and member.open().read() == b"3456"
