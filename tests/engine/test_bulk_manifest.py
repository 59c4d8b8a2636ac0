"""The manifest of a bulk translation: which record counts, kills, and objects of stores."""

from __future__ import annotations

import threading
from collections import Counter

import fsspec
import pytest

from cyclegan_fast.engine.translation.bulk import manifest
from cyclegan_fast.engine.translation.bulk.blocks import BlockResult
from cyclegan_fast.engine.translation.bulk.storage import LocalStorage, RemoteStorage
from cyclegan_fast.engine.translation.report import Outcome
from tests.engine.bulk import failing, records


def one_result(name: str, fault: str = "") -> BlockResult:
    """What became of a block with one result."""
    return BlockResult([name], 2, [Outcome(f"{name}/1.png", fault)] if fault else [], 0.1, (0.0, 255.0))


def test_a_block_that_was_made_again_without_faults_clears_them(tmp_path):
    def write(writer: str, fault: str) -> None:
        record = manifest.Manifest(LocalStorage(tmp_path), {"engine": "e"}, writer)
        record.open()
        record.add(one_result("a.tar", fault))
        record.close()

    for _ in range(4):  # within a second: the last one counts
        write("rank-1-of-2", "damaged")
        loaded = manifest.Manifest(LocalStorage(tmp_path), {"engine": "e"}, "all")
        assert loaded.load() == {"a.tar"} and loaded.faults["a.tar"] == {"a.tar/1.png": "damaged"}
        write("all", "")  # later, though its name sorts before
        loaded = manifest.Manifest(LocalStorage(tmp_path), {"engine": "e"}, "all")
        assert loaded.load() == {"a.tar"} and not any(loaded.faults.values())


def test_a_record_that_another_rank_removes_meanwhile_is_passed_over(tmp_path, monkeypatch):
    manifest.Manifest(LocalStorage(tmp_path), {"engine": "old"}, "all").open()
    (name,) = LocalStorage(tmp_path).list_names(manifest.FOLDER)
    monkeypatch.setattr(LocalStorage, "list_names", lambda *_: [name, name.replace("all-", "gone-")])
    assert manifest.Manifest(LocalStorage(tmp_path), {"engine": "new"}, "all").load(overwrite=True) == set()


def test_a_remote_manifest_has_one_object_for_each_megabyte(monkeypatch):
    monkeypatch.setattr(manifest, "_FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(manifest, "_FULL", 1000)
    there = RemoteStorage("memory://manifest/out")
    record = manifest.Manifest(there, {"engine": "e"}, "rank-0-of-2")
    record.open()
    for i in range(100):
        record.add(one_result(f"{i:03d}.tar", "damaged" if i == 7 else ""))
    record.close()
    sizes = [len(there.read(name)) for name in there.list_names(manifest.FOLDER)]
    assert 3 < len(sizes) < 8 and all(size >= 1000 for size in sizes[:-1])
    loaded = manifest.Manifest(there, {"engine": "e"}, "all")
    assert loaded.load() == {f"{i:03d}.tar" for i in range(100)}
    assert [faults for faults in loaded.faults.values() if faults] == [{"007.tar/1.png": "damaged"}]


@pytest.mark.parametrize("method", ["pipe_file", "rm_file"])
def test_a_kill_while_records_are_written_loses_none_that_were_written(monkeypatch, method):
    """An object that replaces another is whole before that is removed."""
    monkeypatch.setattr(manifest, "_FLUSH_SECONDS", 0.0)
    there = RemoteStorage(f"memory://killed/{method}")
    record = manifest.Manifest(there, {"engine": "e"}, "all")
    record.open()
    for name, fault in (("0.tar", "damaged"), ("1.tar", "damaged"), ("0.tar", "")):
        record.add(one_result(name, fault))
    with monkeypatch.context() as patched:
        failing(patched, method, KeyboardInterrupt(), times=1)
        with pytest.raises(KeyboardInterrupt):
            record.add(one_result("2.tar"))
    loaded = manifest.Manifest(there, {"engine": "e"}, "all")
    assert loaded.load() == {"0.tar", "1.tar"} | ({"2.tar"} if method == "rm_file" else set())
    assert loaded.faults["1.tar"] and not loaded.faults["0.tar"]
    record.close()  # as where it was no kill, but an interrupt
    done = [name for record in records(there.url) for name in record["done"]]
    assert sorted(done) == ["0.tar", "0.tar", "1.tar", "2.tar"]


def test_objects_that_may_not_be_removed_stay(monkeypatch, caplog):
    monkeypatch.setattr(manifest, "_FLUSH_SECONDS", 0.0)
    failing(monkeypatch, "rm_file", PermissionError("Access Denied"), times=9)
    there = RemoteStorage("memory://append-only")
    record = manifest.Manifest(there, {"engine": "e"}, "all")
    record.open()
    for i in range(3):
        record.add(one_result(f"{i}.tar"))
    assert caplog.text.count("files that newer ones replace cannot be removed") == 1
    assert manifest.Manifest(there, {"engine": "e"}, "all").load() == {"0.tar", "1.tar", "2.tar"}
    times = Counter(name for found in records(there.url) for name in found["done"])
    assert max(times.values()) <= 2


def test_the_objects_of_a_manifest_are_read_together(monkeypatch):
    there, count = RemoteStorage("memory://together"), 8
    for i in range(count):
        record = manifest.Manifest(there, {"engine": "e"}, f"rank-{i}-of-{count}")
        record.add(one_result(f"{i}.tar"))
        record.close()
    memory, together = type(fsspec.filesystem("memory")), threading.Barrier(count, timeout=60)
    cat_file = memory.cat_file

    def meeting(self: object, *words: object, **options: object) -> bytes:
        together.wait()
        return cat_file(self, *words, **options)

    monkeypatch.setattr(memory, "cat_file", meeting)
    assert manifest.Manifest(there, {"engine": "e"}, "all").load() == {f"{i}.tar" for i in range(count)}
