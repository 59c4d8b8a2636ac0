"""Bulk translation from and to what fsspec opens, requests that fail, and permissions."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import fsspec
import pytest

from cyclegan_fast.engine.translation.bulk import blocks, storage
from cyclegan_fast.engine.translation.bulk.plan import plan_bulk
from cyclegan_fast.engine.translation.bulk.storage import RemoteStorage
from cyclegan_fast.errors import StorageError, UserError
from tests.engine.bulk import INTERRUPTED, contents, failing, interrupt_after, make_shard, records, run

pytestmark = pytest.mark.usefixtures("no_rank")


def test_an_interrupted_rank_is_finished_by_the_same_command(
    bulk_engine, bulk_images, plain_results, monkeypatch, capsys
):
    """With objects as results, of which not each block is recorded at once."""
    out, uploads = "memory://stop/out", failing(monkeypatch, "put_file", OSError(), times=0)
    interrupt_after(monkeypatch, 3)
    assert run(bulk_engine, bulk_images, out, rank="0/1", block_size=2) == 130
    assert capsys.readouterr().err.endswith(INTERRUPTED)
    recorded = [name for record in records(out) for name in record["done"]]
    assert len(recorded) == 6
    assert run(bulk_engine, bulk_images, out, rank="0/1", block_size=2) == 0
    assert {name: RemoteStorage(out).read(name) for name in plain_results} == plain_results
    assert {uploads[f"/stop/out/{name}"] for name in recorded} == {1}


def test_what_fsspec_opens_is_read_and_written(bulk_engine, bulk_images, plain_results, tmp_path, caplog):
    memory = fsspec.filesystem("memory")
    memory.put(str(bulk_images), "/bulk/in", recursive=True)
    caplog.set_level(logging.INFO, "cyclegan_fast")
    for _ in range(2):
        assert run(bulk_engine, "memory://bulk/in", "memory://bulk/out", rank="0/1", block_size=3) == 0
    assert "13 of 13 files to translate" in caplog.text and "0 of 13 files to translate" in caplog.text
    found = {
        name: RemoteStorage("memory://bulk/out").read(name) for name in RemoteStorage("memory://bulk/out").list_below()
    }
    assert {name: content for name, content in found.items() if not name.startswith(".cyclegan_fast")} == plain_results
    # From here to there, from there to here, a pattern, a single file.
    assert run(bulk_engine, bulk_images, "memory://bulk/again", rank="0/1") == 0
    assert RemoteStorage("memory://bulk/again").read("deep/01.jpg") == plain_results["deep/01.jpg"]
    assert run(bulk_engine, "memory://bulk/in/deep/*.jpg", f"file://{tmp_path}/deep", rank="0/1") == 0
    assert contents(tmp_path / "deep") == {
        name[5:]: plain_results[name] for name in plain_results if name.endswith("jpg") and "/" in name
    }
    assert run(bulk_engine, "memory://bulk/in/00.png", tmp_path / "one", rank="0/1") == 0
    assert contents(tmp_path / "one") == {"00.png": plain_results["00.png"]}
    memory.put(str(make_shard(tmp_path / "s-0.tar", 0)), "/bulk/s-0.tar")
    assert run(bulk_engine, "memory://bulk/s-{0..0}.tar", "memory://bulk/shards", rank="0/1") == 0
    assert run(bulk_engine, tmp_path / "s-0.tar", tmp_path / "shards") == 0
    assert RemoteStorage("memory://bulk/shards").read("s-0.tar") == (tmp_path / "shards" / "s-0.tar").read_bytes()


def test_an_object_that_vanishes_is_a_fault(bulk_engine, bulk_images, tmp_path, monkeypatch):
    fsspec.filesystem("memory").put(str(bulk_images), "/gone/in", recursive=True)
    requests = failing(monkeypatch, "get_file", FileNotFoundError(), 9, end="/00.png")
    assert run(bulk_engine, "memory://gone/in", tmp_path / "out", rank="0/1") == 2
    assert (tmp_path / "out" / "not_translated-rank-0-of-1.csv").read_text() == (
        "file,reason\nmemory://gone/in/00.png,is not there any more\n"
    )
    assert set(requests.values()) == {1}


def test_requests_that_fail_are_repeated(bulk_engine, bulk_images, plain_results, monkeypatch, caplog):
    """Each of them fails twice, once with an error that is none of the system's."""
    monkeypatch.setattr(storage, "_PAUSES", (0.0, 0.0))
    fsspec.filesystem("memory").put(str(bulk_images), "/flaky/in", recursive=True)
    requests = [
        failing(monkeypatch, method, error, times=2)
        for method, error in (
            ("find", TimeoutError("timed out")),
            ("get_file", OSError("connection reset")),
            ("put_file", ValueError("503 Slow Down")),
            ("pipe_file", ConnectionError("connection reset")),
            ("rm_file", OSError("connection reset")),
        )
    ]
    assert run(bulk_engine, "memory://flaky/in", "memory://flaky/out", rank="0/1") == 0
    assert {name: RemoteStorage("memory://flaky/out").read(name) for name in plain_results} == plain_results
    assert all(of_one and min(of_one.values()) >= 3 for of_one in requests), requests


def test_an_object_that_cannot_be_fetched_is_a_fault_after_three_tries(bulk_engine, bulk_images, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_PAUSES", (0.0, 0.0))
    fsspec.filesystem("memory").put(str(bulk_images), "/lost/in", recursive=True)
    requests = failing(monkeypatch, "get_file", OSError("connection reset"), 9, end="/00.png")
    assert run(bulk_engine, "memory://lost/in", tmp_path / "out", rank="0/1") == 2
    assert (tmp_path / "out" / "not_translated-rank-0-of-1.csv").read_text() == (
        "file,reason\nmemory://lost/in/00.png,cannot be read (connection reset)\n"
    )
    assert sorted(set(requests.values())) == [1, 3]


@pytest.mark.parametrize(
    ("method", "error", "message", "tries"),
    [
        ("put_file", PermissionError("Access Denied"), "no permission to write it (Access Denied): check the", 1),
        ("put_file", OSError("connection reset"), "cannot be written (connection reset)", 3),
        ("get_file", PermissionError("Forbidden"), "no permission to read or list it (Forbidden): check the", 1),
        ("get_file", OSError(errno.ENOSPC, "No space left"), "cannot be read ([Errno 28] No space left)", 3),
    ],
)
def test_what_all_files_would_meet_ends_it(bulk_engine, bulk_images, monkeypatch, method, error, message, tries):
    monkeypatch.setattr(storage, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(storage, "MAX_REFUSED", 5)
    fsspec.filesystem("memory").put(str(bulk_images), "/full/in", recursive=True)
    requests = failing(monkeypatch, method, error, times=9)
    with pytest.raises(StorageError) as raised:
        run(bulk_engine, "memory://full/in", f"memory://full/{method}-{tries}", rank="0/1")
    assert message in str(raised.value) and str(raised.value).startswith("memory://full/")
    assert set(requests.values()) == {tries}


def test_one_object_that_may_not_be_read_is_a_fault(bulk_engine, bulk_images, tmp_path, monkeypatch):
    """An archived one, for example; among others, and as a tar shard."""
    memory = fsspec.filesystem("memory")
    memory.put(str(bulk_images), "/archived/in", recursive=True)
    memory.put(str(make_shard(tmp_path / "s-0.tar", 0)), "/archived/s-0.tar")
    failing(monkeypatch, "get_file", PermissionError("InvalidObjectState"), 9, end="0.png")
    failing(monkeypatch, "get_file", PermissionError("InvalidObjectState"), 9, end=".tar")
    reason = "no permission to read or list it (InvalidObjectState): check the credentials"
    for source, name in (("in", "in/00.png"), ("s-{0..0}.tar", "s-0.tar")):
        out = tmp_path / "out" / source[0]
        assert run(bulk_engine, f"memory://archived/{source}", out, rank="0/1") == 2
        listed = (out / "not_translated-rank-0-of-1.csv").read_text()
        assert listed == f"file,reason\nmemory://archived/{name},{reason}\n"
    assert len(contents(tmp_path / "out" / "i")) == 13  # with the list


@pytest.mark.parametrize("block_size", [1, 256])
def test_many_objects_that_may_not_be_read_are_faults_once_one_could_be(
    bulk_engine, bulk_images, tmp_path, monkeypatch, block_size
):
    monkeypatch.setattr(storage, "MAX_REFUSED", 5)
    memory = fsspec.filesystem("memory")
    memory.put(str(bulk_images), "/cold/in", recursive=True)
    names = memory.find("/cold/in")
    for name in names[1:]:
        failing(monkeypatch, "get_file", PermissionError("InvalidObjectState"), 9, end=name)
    monkeypatch.setattr(blocks, "CONNECTIONS", 1)  # in their order
    assert run(bulk_engine, "memory://cold/in", tmp_path / "out", rank="0/1", block_size=block_size) == 2
    listed = (tmp_path / "out" / "not_translated-rank-0-of-1.csv").read_text().splitlines()
    assert len(listed) == len(names) and names[1] in listed[1]


def test_no_object_is_replaced_by_a_result():
    memory = fsspec.filesystem("memory")
    for name in ("x/1.png", "1.png", "2.png"):
        memory.pipe_file(f"/nested/x/{name}", b"")
    with pytest.raises(UserError, match=r"memory://nested/x/1.png is one of the inputs and would be overwritten"):
        plan_bulk(Path("memory://nested/x"), Path("memory://nested"))
    memory.rm_file("/nested/x/x/1.png")
    assert plan_bulk(Path("memory://nested/x"), Path("memory://nested")).names == [("1.png",) * 2, ("2.png",) * 2]


def test_a_request_that_fails_drops_no_match_of_a_pattern(monkeypatch):
    """A listing says what is a file: no request is made for each match."""
    memory = fsspec.filesystem("memory")
    for name in ("0.png", "1.png", "folder.png/2.png"):
        memory.pipe_file(f"/matched/{name}", b"")
    monkeypatch.setattr(type(memory), "isfile", fsspec.AbstractFileSystem.isfile)  # that of stores
    failing(monkeypatch, "info", OSError("connection reset"), times=9, end=".png")
    assert storage.match_urls("memory://matched/*.png") == ["memory:///matched/0.png", "memory:///matched/1.png"]


def test_a_missing_package_of_a_url_is_named(monkeypatch):
    def no_package(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", no_package)
    with pytest.raises(UserError, match=r"s3://bucket/x: s3:// needs a package that is missing: pip install s3fs"):
        RemoteStorage("s3://bucket/x").list_below()


def test_a_bucket_without_permission_is_one_sentence(monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "find", refused)
    with pytest.raises(UserError, match=r"memory://b: no permission to read or list it \(Forbidden\)"):
        RemoteStorage("memory://b").list_below()
