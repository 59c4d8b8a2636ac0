"""Bulk translation without Ray: ranks, tar shards, URLs, the manifest, and what is refused."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import fsspec
import pytest

from cyclegan_fast.engine.translation.bulk import manifest, storage
from cyclegan_fast.engine.translation.bulk.blocks import BlockResult
from cyclegan_fast.engine.translation.bulk.plan import plan_bulk
from cyclegan_fast.engine.translation.bulk.rank import Rank, device_of_rank, parse_rank, rank_of_environment
from cyclegan_fast.engine.translation.bulk.run import plan_job, run_bulk
from cyclegan_fast.engine.translation.bulk.share import translate_here
from cyclegan_fast.engine.translation.bulk.storage import LocalStorage, RemoteStorage, storage_at
from cyclegan_fast.engine.translation.report import Outcome
from cyclegan_fast.errors import StorageError, UserError
from tests.engine.bulk import (
    add_member,
    contents,
    interrupt_after,
    make_images,
    make_shard,
    make_videos,
    members,
    run,
)


@pytest.fixture(autouse=True)
def no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def records(output: Path | str) -> list[dict]:
    """The records of the manifest, without the settings, and without lines that a kill cut off."""
    there = storage_at(output)
    files = [name for name in there.list_names(manifest.FOLDER) if name.endswith(".jsonl")]
    lines = [line for name in files for line in there.read(name).splitlines() if line.endswith(b"}")]
    return [record for record in map(json.loads, lines) if "done" in record]


def failing(monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, times: int, end: str = "") -> Counter[str]:
    """Lets the first requests for each path of a memory file system fail; returns how many there were for each.

    Args:
        monkeypatch: The fixture.
        method: The method of the request.
        error: What it raises.
        times: How many fail.
        end: Of the paths.
    """
    memory, requests = type(fsspec.filesystem("memory")), Counter()
    plain = getattr(memory, method)

    def fails(self: object, *words: object, **options: object) -> object:
        path = str(words[method == "put_file"])
        requests[path] += 1
        if path.endswith(end) and requests[path] <= times:
            raise error
        return plain(self, *words, **options)

    monkeypatch.setattr(memory, method, fails)
    return requests


def test_the_ranks_of_torchrun_make_the_bytes_of_one_process(
    bulk_engine, bulk_images, plain_results, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "cyclegan_fast")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert run(bulk_engine, bulk_images, tmp_path / "out", block_size=3) == 0
    assert contents(tmp_path / "out") == plain_results
    done = [name for record in records(tmp_path / "out") for name in record["done"]]
    assert sorted(done) == sorted(plain_results), "each file is done once"
    assert {len(record["done"]) for record in records(tmp_path / "out")} <= {1, 2, 3}
    logs = {path.name: path.read_text() for path in (tmp_path / "out" / manifest.FOLDER).glob("*.log")}
    assert set(logs) == {"rank-0-of-2.log", "rank-1-of-2.log"}
    assert "rank 0 of 2: 7 of 7 files are in" in logs["rank-0-of-2.log"] and "rank 1" not in logs["rank-0-of-2.log"]


def test_a_second_run_does_what_is_missing_only(bulk_engine, bulk_images, plain_results, tmp_path, caplog):
    out = tmp_path / "out"
    caplog.set_level(logging.INFO, "cyclegan_fast")
    for _ in range(2):
        assert run(bulk_engine, bulk_images, out, rank="0/1") == 0
    assert "0 of 13 files to translate" in caplog.text
    assert len(records(out)) == 1
    gone, before = out / "deep" / "01.jpg", {path: path.stat().st_ino for path in out.rglob("*.*") if path.is_file()}
    gone.unlink()
    caplog.clear()
    assert run(bulk_engine, bulk_images, out, rank="0/1") == 0
    assert "1 of 13 files to translate" in caplog.text and contents(out) == plain_results
    assert {path for path, number in before.items() if path.stat().st_ino != number} <= {gone, *out.rglob("*.log")}


def test_results_of_other_settings_are_not_mixed(bulk_engine, bulk_images, plain_results, tmp_path):
    out = tmp_path / "out"
    assert run(bulk_engine, bulk_images, out, rank="0/1", metadata="none") == 0
    other = contents(out)
    with pytest.raises(UserError, match=r"made with another metadata \(metadata 'none', and now 'keep'\): choose"):
        run(bulk_engine, bulk_images, out, rank="0/1")
    assert contents(out) == other != plain_results
    assert run(bulk_engine, bulk_images, out, rank="0/1", overwrite=True) == 0
    assert contents(out) == plain_results
    assert run(bulk_engine, bulk_images, out, rank="0/1") == 0  # the settings of before are forgotten


def test_results_without_a_record_are_left_alone(bulk_engine, bulk_images, plain_results, tmp_path, caplog):
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "01.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"deep/01.jpg exists already \(1 of 13 results\), with no record of how"):
        run(bulk_engine, bulk_images, out, rank="0/1")
    assert run(bulk_engine, bulk_images, out, rank="0/1", resume=True) == 0
    assert contents(out) == plain_results | {"deep/01.jpg": b"mine"}


def test_what_cannot_be_translated_is_listed_and_the_rest_is_done(bulk_engine, plain_results, tmp_path, capsys):
    source, out = make_images(tmp_path / "in"), tmp_path / "out"
    (source / "deep" / "01.jpg").write_bytes(b"no image")
    (source / "cut.png").write_bytes((source / "deep" / "04.png").read_bytes()[:300])
    status = {run(bulk_engine, source, out, rank=rank, block_size=2) for rank in ("0/2", "1/2")}
    assert status == {0, 2} or status == {2}
    expected = {name: content for name, content in plain_results.items() if name != "deep/01.jpg"}
    listed = list(out.glob("not_translated-rank-*-of-2.csv"))
    found = contents(out)
    assert {name: found[name] for name in expected} == expected and len(found) == len(expected) + len(listed)
    text = "".join(path.read_text() for path in listed)
    assert f'{source / "deep" / "01.jpg"},"not an image in a known format' in text and "cut.png,damaged" in text
    assert f"not translated: {source / 'deep' / '01.jpg'}: not an image" in capsys.readouterr().err
    (source / "cut.png").unlink()
    (source / "deep" / "01.jpg").unlink()
    assert {run(bulk_engine, source, out, rank=rank) for rank in ("0/2", "1/2")} == {0}
    assert list(out.glob("not_translated*")) == []


INTERRUPTED = "interrupted: the same command does the rest\n"

# A rank that sends itself a signal where it has written some results.
STOPPING = """
import os, signal, sys
from cyclegan_fast.engine.translation.bulk import share
plain, count = share.translate_block, 0
def stopping(*words):
    global count
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.Signals[os.environ["STOPPED_BY"]])
    return plain(*words)
share.translate_block = stopping
from cyclegan_fast.translate import main
main(sys.argv[1:])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills of POSIX")
@pytest.mark.usefixtures("default_sigint")
@pytest.mark.parametrize(("by", "status", "sentence"), [("SIGKILL", -9, ""), ("SIGINT", 130, INTERRUPTED)])
def test_a_stopped_rank_is_finished_by_the_next_start(
    bulk_engine, bulk_images, plain_results, tmp_path, by, status, sentence
):
    out = tmp_path / "out"
    words = ["--engine", bulk_engine, "--direction", "AtoB", "--device", "cpu", "--threads", "1", "--batch-size", "2"]
    words += ["--input", bulk_images, "--output", out, "--rank", "1/2", "--block-size", "2"]
    command = [sys.executable, "-c", STOPPING, *map(str, words)]
    environment = os.environ | {"STOPPED_BY": by}
    stopped = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert stopped.returncode == status and sentence in stopped.stderr, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert len(records(out)) == 2
    recorded = {name for record in records(out) for name in record["done"]}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.suffix[1:] in ("png", "jpg", "webp")}
    assert len(before) >= 3
    with next((out / manifest.FOLDER).glob("*.jsonl")).open("ab") as file:
        file.write(b'{"done":["cut off by the ki')
    for rank in ("0/2", "1/2"):
        assert run(bulk_engine, bulk_images, out, rank=rank, block_size=2) == 0
    assert contents(out) == plain_results
    kept = {path: then for path, then in before.items() if path.relative_to(out).as_posix() in recorded}
    assert len(kept) == 4 and all(path.stat().st_mtime_ns == then for path, then in kept.items())


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


@pytest.mark.slow
def test_torchrun_starts_the_ranks(bulk_engine, bulk_images, plain_results, tmp_path):
    out = tmp_path / "out"
    words = ["-m", "cyclegan_fast.translate", "--engine", bulk_engine, "--direction", "AtoB", "--device", "cpu"]
    words += ["--threads", "1", "--batch-size", "2", "--input", bulk_images, "--output", out]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert contents(out) == plain_results
    assert "rank 0 of 2: 7 of 7 files are in" in done.stdout and "rank 1 of 2: 6 of 6 files are in" in done.stdout


def test_tar_shards_become_shards(bulk_engine, tmp_path, capsys):
    first, _ = make_shard(tmp_path / "in" / "a-000.tar", 0), make_shard(tmp_path / "in" / "a-001.tar", 10)
    for number, rank in enumerate((None, "0/2", "1/2")):
        out = tmp_path / ("whole" if number == 0 else "ranks")
        assert run(bulk_engine, tmp_path / "in" / "a-{000..001}.tar", out, rank=rank) == 0
    assert contents(tmp_path / "whole") == contents(tmp_path / "ranks")
    made, given = members(tmp_path / "whole" / "a-000.tar"), members(first)
    assert [name for name, _ in made] == [name for name, _ in given if name != ".hidden/x.png"]
    assert made[1] == ("0000.cls", b"0")
    for name, content in given[:4]:
        (tmp_path / "loose" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "loose" / name).write_bytes(content)
    assert run(bulk_engine, tmp_path / "loose" / "*.png", tmp_path / "one_by_one") == 0
    assert made[0][1] == (tmp_path / "one_by_one" / "0000.png").read_bytes() != given[0][1]


def test_a_corrupt_member_is_left_out_of_the_shard_and_listed_each_time(bulk_engine, tmp_path, capsys):
    shard, out = make_shard(tmp_path / "in" / "a.tar", 0), tmp_path / "out"
    content = bytearray(shard.read_bytes())
    start = content.index(b"\x89PNG", 2000)
    content[start : start + 8] = b"no image"
    shard.write_bytes(content)
    (tmp_path / "in" / "b.tar").write_bytes(b"no archive" * 100)
    for _ in range(2):
        assert run(bulk_engine, tmp_path / "in" / "*.tar", out) == 2
        said = capsys.readouterr().err
        assert f"not translated: {shard}:0001.png: not an image" in said and "b.tar: this archive is damaged" in said
        assert (out / "not_translated.csv").read_text().count("\n") == 3
    assert [name for name, _ in members(out / "a.tar")][:3] == ["0000.png", "0000.cls", "0001.cls"]
    assert not (out / "b.tar").exists()


def test_videos_become_the_bytes_of_the_plain_command(bulk_engine, tmp_path, capsys):
    """By ranks, and by way of URLs; each is a block of its own, and one that is cut off is listed."""
    pytest.importorskip("av")
    source, cut = make_videos(tmp_path / "in"), "cut.mp4: "
    assert run(bulk_engine, source, tmp_path / "plain") == 2
    plain, faults = contents(tmp_path / "plain"), capsys.readouterr().err
    assert sorted(plain) == ["0.png", "a.mp4", "deep/b.mkv"] and cut in faults
    reason = faults.partition(cut)[2].strip()

    assert [run(bulk_engine, source, tmp_path / "ranks", rank=f"{rank}/2") for rank in range(2)] == [2, 0]
    listed = (tmp_path / "ranks" / "not_translated-rank-0-of-2.csv").read_text()
    assert "cut.mp4" in listed and reason in listed
    assert contents(tmp_path / "ranks") == plain | {"not_translated-rank-0-of-2.csv": listed.encode()}
    assert [record["done"] for record in records(tmp_path / "ranks")] == [[], ["0.png"], ["a.mp4"], ["deep/b.mkv"]]

    fsspec.filesystem("memory").put(str(source), "/videos/in", recursive=True)
    assert run(bulk_engine, "memory://videos/in", "memory://videos/out", rank="0/1") == 2
    assert {name: RemoteStorage("memory://videos/out").read(name) for name in plain} == plain


def test_a_video_where_pyav_is_missing_ends_the_rank_before_anything_is_computed(bulk_engine, tmp_path, monkeypatch):
    source = make_images(tmp_path / "in", 2)
    (source / "a.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'cyclegan-fast\[video\]'"):
        run(bulk_engine, source, tmp_path / "out", rank="0/1")
    assert contents(tmp_path / "out") == {}


def test_a_video_in_a_tar_shard_is_left_out_and_named(bulk_engine, tmp_path, caplog):
    shard = make_shard(tmp_path / "in" / "a.tar", 0)
    with tarfile.open(shard, "a") as opened:
        add_member(opened, "0000.mp4", b"a video")
    assert run(bulk_engine, shard, tmp_path / "out") == 0
    assert f"{shard}: leaves out 1 .mp4, which are not read; cut them into frames" in caplog.text
    assert "0000.mp4" not in dict(members(tmp_path / "out" / "a.tar"))


def test_notes_about_shards_count_no_image_and_ten_are_logged(bulk_engine, tmp_path, caplog):
    for i in range(12):
        with tarfile.open(make_shard(tmp_path / "in" / f"{i:02d}.tar", 0, 1), "a") as opened:
            add_member(opened, "0000.mp4", b"a video")
    job, plan = plan_job(tmp_path / "in" / "*.tar", tmp_path / "out", bulk_engine, {"device": "cpu", "threads": 1})
    report = run_bulk(job, plan, partial(translate_here, job), block_size=lambda _: 1).report
    assert report.count == report.translated == 12 * 2  # a shard of one has it twice
    assert caplog.text.count("leaves out 1 .mp4") == 10 and "and 2 more with such notes" in caplog.text


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


def test_no_shard_is_replaced_by_its_result(tmp_path):
    shard = make_shard(tmp_path / "in" / "a.tar", 0, 1)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "hard").mkdir()
    (tmp_path / "hard" / "a.tar").hardlink_to(shard)
    for output in ("in", "link", "in/../in", "hard"):
        with pytest.raises(UserError, match=r"a.tar is one of the inputs and would be overwritten: choose another"):
            plan_bulk(tmp_path / "in" / "*.tar", tmp_path / output)
    assert plan_bulk(tmp_path / "in" / "*.tar", tmp_path).names == [("a.tar", "a.tar")]


def test_the_results_of_an_earlier_run_are_no_input(tmp_path):
    for name in ("in/x/a.tar", "in/x/b.tar"):
        make_shard(tmp_path / name, 0, 1)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "in"), "/again/in", recursive=True)
    first = plan_bulk(tmp_path / "in" / "**" / "*.tar", tmp_path / "in" / "out")
    there = plan_bulk(Path("memory://again/in/**/*.tar"), Path("memory://again/in/out"))
    assert first.names == [("a.tar", "a.tar"), ("b.tar", "b.tar")]
    assert there.names == [("x/a.tar", "x/a.tar"), ("x/b.tar", "x/b.tar")]
    make_shard(tmp_path / "in" / "out" / "a.tar", 0, 1)
    memory.put(str(tmp_path / "in" / "out" / "a.tar"), "/again/in/out/x/a.tar")
    assert plan_bulk(tmp_path / "in" / "**" / "*.tar", tmp_path / "in" / "out") == first
    assert plan_bulk(Path("memory://again/in/**/*.tar"), Path("memory://again/in/out")) == there


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"rank": "2/2"}, "--rank must be the rank and the number of ranks, 0/8 to 7/8 for example, got '2/2'"),
        ({"rank": "0/2", "reconstruct": True}, "--reconstruct needs one process, and files"),
        ({"rank": "0/2", "block_size": 0}, "--block-size must be a whole number of at least 1, got 0"),
        ({"rank": "0/2", "output": "zebra.png"}, "names a file, and a bulk translation writes a folder"),
        ({"rank": "0/2", "engine": "nowhere"}, "nowhere does not exist"),
        ({"rank": "0/2", "source": "memory://nowhere/x"}, "memory://nowhere/x: no image is there: correct the URL"),
        ({"rank": "0/2", "source": "nosuch://x/y"}, "nosuch://x/y: cannot be opened (Protocol not known: nosuch"),
        ({"rank": "0/2", "source": "memory://b/{0..8}.tar"}, "memory://b: there is no 0.tar, 1.tar, 2.tar and 6 more"),
        ({"source": "memory://nowhere/x"}, "memory://nowhere/x: URLs are not fetched"),
        ({"rank": "0/2", "source": "memory://i", "output": "memory://i"}, "memory://i is the folder of the input"),
        ({"rank": "0/2", "source": "memory://i", "output": "memory://i/o"}, "memory://i/o lies in the input folder"),
        ({"rank": "0/2", "block_size": 8, "source": "a-{0..8}.tar"}, "and a tar shard is one block: leave it out"),
        ({"block_size": 8}, "--block-size is about bulk translations: give --rank or --ray, too, or leave it out"),
    ],
)
def test_mistakes_are_one_sentence(bulk_engine, bulk_images, tmp_path, words, message):
    fsspec.filesystem("memory").pipe_file("/i/0.png", b"")
    words = {"engine": bulk_engine, "source": bulk_images, "output": tmp_path / "out"} | words
    with pytest.raises(UserError) as error:
        run(Path(words.pop("engine")), words.pop("source"), words.pop("output"), **words)
    assert message in str(error.value) and "\n" not in str(error.value)


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


def test_ranks_have_each_item_once_and_are_read_strictly():
    items = list(range(11))
    assert sorted(item for i in range(4) for item in Rank(i, 4).share(items)) == items
    assert parse_rank("7/8") == Rank(7, 8)
    for text in ("", "1", "-1/2", "1/1", "1/2/3", "a/b", "0/0", "0 /2", "0/1000000000"):
        with pytest.raises(UserError, match="--rank must be"):
            parse_rank(text)
    assert rank_of_environment({"RANK": "1"}) is None
    assert rank_of_environment({"RANK": "1", "WORLD_SIZE": "2"}) == Rank(1, 2)
    with pytest.raises(UserError, match="the environment has RANK=3 and WORLD_SIZE=2, which are no rank"):
        rank_of_environment({"RANK": "3", "WORLD_SIZE": "2"})


def test_each_rank_of_a_host_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert device_of_rank("auto", {"LOCAL_RANK": "6"}) == "cuda:2"
    assert device_of_rank("cuda:1", {"LOCAL_RANK": "6"}) == "cuda:1"
    assert device_of_rank("auto", {}) == "auto"
    assert device_of_rank("cpu", {"LOCAL_RANK": "1"}) == "cpu"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert device_of_rank("auto", {"LOCAL_RANK": "1"}) == "auto"


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


def one_result(name: str, fault: str = "") -> BlockResult:
    """What became of a block with one result."""
    return BlockResult([name], 2, [Outcome(f"{name}/1.png", fault)] if fault else [], 0.1, (0.0, 255.0))


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
