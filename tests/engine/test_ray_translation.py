"""Bulk translation by a Ray cluster: one instance with two workers for all tests, as starting one takes long."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyclegan_fast import translate as command
from cyclegan_fast.engine.translation.bulk import manifest, ray_cluster, ray_workers
from cyclegan_fast.engine.translation.bulk.ray_cluster import Cluster, connected
from cyclegan_fast.engine.translation.bulk.ray_workers import Workers, find_workers
from cyclegan_fast.errors import UserError
from cyclegan_fast.telemetry import telemetry_disabled
from tests.engine.bulk import contents, interrupt_after, make_images, make_shard, make_videos, run

ray = pytest.importorskip("ray", reason="Ray, of the extra [ray], is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers in /proc")]


MARK = f"CYCLEGAN_FAST_TEST={secrets.token_hex(8)}".encode()  # in the environment of its processes


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray with two CPUs, which `connected` finds."""
    with pytest.MonkeyPatch.context() as patched, telemetry_disabled():
        patched.setenv(*MARK.decode().split("="))
        patched.setenv("RAY_AUTH_MODE", "disabled")  # which would leave a token in the user's home
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, logging_level="ERROR")
        session = ray._private.worker._global_node.get_session_dir_path()
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        try:
            yield
        finally:
            ray.shutdown()
    shutil.rmtree(session, ignore_errors=True)


def workers() -> list[int]:
    """The process numbers of the actors that translate, of this cluster alone."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                name, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            except OSError:
                continue
            if b"ray::MapWorker" in name and MARK in environment:
                found.append(int(process.name))
    return found


def on_ray(engine: Path, source: Path | str, output: Path | str, **options: object) -> int:
    return run(engine, source, output, **{"ray": "local", "ray_workers": 2, "block_size": 2} | options)


@pytest.mark.usefixtures("cluster")
class TestOnACluster:
    def test_the_bytes_are_those_of_the_plain_command(
        self, bulk_engine, bulk_images, plain_results, tmp_path, caplog, capsys
    ):
        """A corrupt file is listed; the second run has only that to do."""
        source = shutil.copytree(bulk_images, tmp_path / "in")
        (source / "bad.png").write_bytes(b"no image")
        caplog.set_level(logging.INFO, "cyclegan_fast")
        out = tmp_path / "out"
        assert on_ray(bulk_engine, source, out) == 2
        listed = "file,reason\n" + f'{source / "bad.png"},"not an image in a known format '
        assert (out / "not_translated.csv").read_text().startswith(listed)
        assert f"not translated: {source / 'bad.png'}: not an image" in capsys.readouterr().err
        assert contents(out) == plain_results | {"not_translated.csv": (out / "not_translated.csv").read_bytes()}
        assert "2 workers on Ray, each with 1 CPU" in caplog.text and "14 of 14 files to translate" in caplog.text
        (source / "bad.png").unlink()
        caplog.clear()
        assert on_ray(bulk_engine, source, out) == 0
        assert "0 of 13 files to translate" in caplog.text
        assert contents(out) == plain_results

    def test_a_killed_worker_repeats_its_blocks_alone(self, bulk_engine, tmp_path, caplog):
        source, out = make_images(tmp_path / "in", 48), tmp_path / "out"
        assert run(bulk_engine, source, tmp_path / "plain") == 0
        killed: list[dict[str, int]] = []  # the results that were recorded then, with their times

        def kill_one() -> None:
            until = time.monotonic() + 240
            while time.monotonic() < until and not killed:
                if len(done := recorded(out)) >= 4 and (actors := workers()):
                    killed.append({name: (out / name).stat().st_mtime_ns for name in done})
                    os.kill(actors[0], signal.SIGKILL)
                time.sleep(0.005)

        killer = threading.Thread(target=kill_one)
        killer.start()
        assert on_ray(bulk_engine, source, out, ray_workers=1) == 0
        killer.join()
        assert killed and len(killed[0]) < 48, "the kill came in the middle"
        assert contents(out) == contents(tmp_path / "plain")
        assert {name: (out / name).stat().st_mtime_ns for name in killed[0]} == killed[0], "they were made once"
        assert sorted(recorded(out)) == sorted(contents(out)), "each is recorded once"

    def test_an_interrupted_run_is_finished_by_the_same_command(
        self, bulk_engine, bulk_images, plain_results, tmp_path, monkeypatch, capsys
    ):
        out = tmp_path / "out"
        interrupt_after(monkeypatch, 3)
        assert on_ray(bulk_engine, bulk_images, out) == 130
        assert capsys.readouterr().err.endswith("interrupted: the same command does the rest\n")
        before = {name: (out / name).stat().st_mtime_ns for name in recorded(out)}
        assert len(before) in (5, 6), "three blocks, of which one may be the last"
        assert on_ray(bulk_engine, bulk_images, out) == 0
        assert contents(out) == plain_results
        assert {name: (out / name).stat().st_mtime_ns for name in before} == before, "they were made once"
        assert sorted(recorded(out)) == sorted(plain_results), "each is recorded once"

    def test_tar_shards_and_urls(self, bulk_engine, tmp_path, monkeypatch):
        monkeypatch.setattr(ray_workers, "_WINDOW", 1)
        make_shard(tmp_path / "in" / "a-0.tar", 0), make_shard(tmp_path / "in" / "a-1.tar", 10)
        assert run(bulk_engine, tmp_path / "in" / "*.tar", tmp_path / "plain") == 0
        source, out = f"file://{tmp_path}/in/a-{{0..1}}.tar", f"file://{tmp_path}/out"
        assert on_ray(bulk_engine, source, out, ray_workers=1, block_size=256) == 0
        assert contents(tmp_path / "out") == contents(tmp_path / "plain")

    def test_videos(self, bulk_engine, tmp_path):
        pytest.importorskip("av")
        source = make_videos(tmp_path / "in")
        assert run(bulk_engine, source, tmp_path / "plain") == 2
        assert on_ray(bulk_engine, source, tmp_path / "out") == 2
        listed = (tmp_path / "out" / "not_translated.csv").read_bytes()
        assert b"cut.mp4" in listed
        assert contents(tmp_path / "out") == contents(tmp_path / "plain") | {"not_translated.csv": listed}

    def test_what_a_worker_cannot_do_is_one_sentence(self, bulk_engine, bulk_images, tmp_path):
        broken = tmp_path / "broken.onnx"
        broken.write_bytes(b"no network")
        with pytest.raises(UserError, match=r"broken\.onnx") as error:
            on_ray(broken, bulk_images, tmp_path / "out", ray_workers=1)
        assert "\n" not in str(error.value)


def recorded(output: Path) -> list[str]:
    """The results in the manifest, as often as they are in it; a line that is being written does not count."""
    files = sorted((output / manifest.FOLDER).glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    return [name for record in map(json.loads, lines) for name in record.get("done", [])]


def test_workers_on_this_machine_leave_no_trace(bulk_engine, bulk_images, plain_results, tmp_path):
    """No sessions among the temporary files, no token in the home folder, no lines of Ray's core on the terminal."""
    home = tmp_path / "home"
    home.mkdir()
    words = ["--engine", bulk_engine, "--direction", "AtoB", "--device", "cpu", "--batch-size", 2, "--ray"]
    words += ["--ray-workers", 1, "--input", bulk_images, "--output", tmp_path / "out"]
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as scratch:  # a short path, as sockets lie below it
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"HOME": str(home), "TMPDIR": scratch}
        command = [sys.executable, "-m", "cyclegan_fast.translate", *map(str, words)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stderr.splitlines() if ".cc:" in line]
        assert all("file_system_monitor.cc" in line for line in lines), (
            lines
        )  # which warns of a disk that is nearly full
        assert not list(Path(scratch).iterdir()) and not (home / ".ray").exists()
    assert contents(tmp_path / "out") == plain_results


# ---- Without a cluster.
def test_the_core_of_ray_writes_what_is_fatal_alone(monkeypatch, capfd):
    """Its level is not that of other processes; what others write meanwhile is not lost."""
    monkeypatch.delenv("RAY_BACKEND_LOG_LEVEL", raising=False)
    level = ctypes.CDLL(None).getenv
    level.restype = ctypes.c_char_p
    with ray_cluster._driver_log_off():
        assert level(b"RAY_BACKEND_LOG_LEVEL") == b"fatal" and "RAY_BACKEND_LOG_LEVEL" not in os.environ
        os.write(2, b"before\nlogging.cc:303: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\n")
        os.write(2, b"no end of a line")
        assert capfd.readouterr().err == ""
    assert level(b"RAY_BACKEND_LOG_LEVEL") is None
    os.write(2, b", after")
    assert capfd.readouterr().err == "before\nno end of a line, after"
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "debug")
    with ray_cluster._driver_log_off():  # leaves a user's choice
        assert level(b"RAY_BACKEND_LOG_LEVEL") == b"debug"


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("no cluster is there to join"))
    monkeypatch.setattr(ray, "shutdown", lambda: None)


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize("address", ["nowhere", "ray://10.0.0.1:10001", "10.0.0.1", "a b:1", ":6379"])
def test_what_is_no_address_is_refused(address):
    expected = r"--ray must be auto, or HOST:PORT of a cluster, such as 10\.0\.0\.1:6379, got"
    with pytest.raises(UserError, match=expected), connected(address):
        pass


@pytest.mark.usefixtures("no_cluster")
def test_an_address_that_nobody_answers_is_refused(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with (
        pytest.raises(UserError, match=rf"--ray 127.0.0.1:{port}: nobody answers \(.*refused.*\)"),
        connected(f"127.0.0.1:{port}"),
    ):
        pass
    with pytest.raises(UserError, match=r"nobody answers"), connected("127.0.0.1:99999"):
        pass
    monkeypatch.setattr(ray_cluster, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # which takes the call and is silent
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=r"nobody answers \(timed out\)"), connected(address):
            pass


@pytest.mark.usefixtures("no_cluster")
def test_a_server_of_another_kind_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match="what answers is not Ray: give the port of the head"), connected(address):
            pass


def test_a_cluster_that_stops_to_answer_is_one_sentence(monkeypatch):
    def ends(**_: object) -> None:
        raise SystemExit(15)  # as Ray does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", ends)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="--ray: workers cannot be started here"), connected("local"):
        pass


class FakeRay:
    """A cluster of which only the resources are known."""

    def __init__(self, **resources: float) -> None:
        self.cluster_resources = lambda: resources


def test_workers_are_as_many_as_fit(caplog):
    eight = Cluster(FakeRay(CPU=16.0, GPU=8.0), is_own=False)
    assert find_workers(eight, "auto", None, None) == Workers(8, 1, 1)
    assert find_workers(eight, "cpu", 4, None) == Workers(4, 4, 0)
    assert find_workers(Cluster(FakeRay(CPU=2.0), is_own=True), "auto", None, None) == Workers(2, 1, 0)
    assert find_workers(eight, "cuda", None, 100) == Workers(100, 1, 1)
    assert "92 of 100 workers wait until machines join" in caplog.text
    assert Workers(4, 1, 0).block_size(10_000, 256, 8) == 256
    assert Workers(4, 1, 0).block_size(100, 256, 8) == 8
    assert Workers(1, 1, 0).block_size(100, 256, 8) == 25
    own = Cluster(FakeRay(CPU=2.0), is_own=True)
    for device, threads, count, message in (
        ("cuda", None, None, "--device cuda: the Ray cluster has no GPU"),
        ("cuda:1", None, None, "--device cuda:1: Ray gives each worker a GPU of its own"),
        ("auto", None, 0, "--ray-workers must be a whole number of at least 1, got 0"),
        ("auto", None, 3, "the Ray cluster has 2 CPUs and 0 GPUs, and each worker takes 1 CPU: give fewer"),
        ("auto", 3, None, "the Ray cluster has 2 CPUs and 0 GPUs, and each worker takes 3 CPUs: give fewer"),
    ):
        with pytest.raises(UserError) as error:
            find_workers(own, device, threads, count)
        assert message in str(error.value)


def test_what_ray_does_by_itself_is_refused_beside_it(bulk_engine, bulk_images, tmp_path):
    for options, message in (
        ({"rank": "0/2"}, "--ray shares the work by itself, and this process is rank 0 of 2"),
        ({"faithfulness": True}, "--faithfulness needs one process"),
        ({"ray": None}, "--ray-workers is about --ray: give both, or leave it out"),
    ):
        with pytest.raises(UserError) as error:
            on_ray(bulk_engine, bulk_images, tmp_path / "out", **options)
        assert message in str(error.value)


def test_a_missing_ray_is_one_sentence(bulk_engine, bulk_images, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"--ray needs Ray Data \(.*\): pip install 'cyclegan-fast\[ray\]'"):
        on_ray(bulk_engine, bulk_images, tmp_path / "out")


def test_the_flag_may_stand_without_an_address(run_command_here, tmp_path):
    words = ["--engine", tmp_path / "nowhere", "--input", tmp_path, "--output", tmp_path / "out"]
    for flag in (["--ray"], ["--ray", "10.0.0.1:6379"], ["--ray=10.0.0.1:6379"]):
        ended = run_command_here(command.main, *flag, *words)
        assert ended.status == 2 and "nowhere does not exist" in ended.err
