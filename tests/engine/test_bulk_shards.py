"""Bulk translation of tar shards and videos."""

from __future__ import annotations

import sys
import tarfile
from functools import partial
from pathlib import Path

import fsspec
import pytest

from cyclegan_fast.engine.translation.bulk.plan import plan_bulk
from cyclegan_fast.engine.translation.bulk.run import plan_job, run_bulk
from cyclegan_fast.engine.translation.bulk.share import translate_here
from cyclegan_fast.engine.translation.bulk.storage import RemoteStorage
from cyclegan_fast.errors import UserError
from tests.engine.bulk import add_member, contents, make_images, make_shard, make_videos, members, records, run

pytestmark = pytest.mark.usefixtures("no_rank")


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
