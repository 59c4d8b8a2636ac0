"""Bulk translation by ranks: their shares, a second run, a stopped one, and what is refused."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from cyclegan_fast.engine.translation.bulk import manifest
from cyclegan_fast.engine.translation.bulk.rank import Rank, device_of_rank, parse_rank, rank_of_environment
from cyclegan_fast.errors import UserError
from tests.engine.bulk import INTERRUPTED, contents, make_images, records, run

pytestmark = pytest.mark.usefixtures("no_rank")


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
