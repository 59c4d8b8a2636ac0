"""python -m cyclegan_fast.serve: how it starts, what it prints, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from cyclegan_fast.serve import main
from cyclegan_fast.serving.models import read_source
from cyclegan_fast.serving.server import bind, is_local
from tests.commands import run_in_process
from tests.serving.running import pixels_of, png

# A server whose engine takes its time for each batch, so that a signal comes in the middle.
SLOW = """
import os, sys, time
from cyclegan_fast.engine.backends.torch import TorchBackend

compute = TorchBackend._compute

def slowly(self, batch):
    if tuple(batch.shape[2:]) == (16, 24):
        time.sleep(float(os.environ["SECONDS"]))
    return compute(self, batch)

TorchBackend._compute = slowly
from cyclegan_fast.serve import main
main(sys.argv[1:])
"""


def serve(*words: object) -> subprocess.CompletedProcess[str]:
    return run_in_process(lambda: main([str(word) for word in words]))


@contextlib.contextmanager
def started(
    *words: object, code: tuple[str, ...] = ("-m", "cyclegan_fast.serve")
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own, and its port."""
    command = [sys.executable, *code, *map(str, words), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"serving (\S.*) on http://127\.0\.0\.1:(\d+)\n", line)
        assert found, (line, process.stderr and process.stderr.read())
        yield process, int(found[2])
    finally:
        process.kill()
        process.communicate()


def post(port: int, path: str = "/translate") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", path, png(pixels_of()))
        response = connection.getresponse()
        return response.status, response.read()


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def wait_for_requests(port: int, count: int) -> None:
    """Until the server has admitted so many images."""
    while (
        int(float(re.findall(r"^cyclegan_admitted_images\{.*\} (\S+)$", get(port, "/metrics")[1], re.MULTILINE)[0]))
        < count
    ):
        time.sleep(0.01)


@pytest.mark.fault(27)
def test_signals_load_the_engines_again_and_end_the_server_in_order(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS", "1")
    with (
        started("--engine", f"a={run_folder}", "--max-batch", 2, code=("-c", SLOW)) as (process, port),
        ThreadPoolExecutor(6) as pool,
    ):
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None and process.stdout.readline() == "a is loaded again\n"
        answers = [pool.submit(post, port) for _ in range(5)]
        wait_for_requests(port, 5)
        process.send_signal(signal.SIGTERM)
        while (late := post(port))[0] == 200:  # the signal has not come yet
            pass
        assert late[0] == 503 and b"shutting down" in late[1]
        bodies = {answer.result() for answer in answers}
        assert {status for status, _ in bodies} == {200} and len(bodies) == 1
        assert process.wait(60) == 0
        out, err = process.communicate()
        assert "requests are answered first" in out and not err


def test_a_second_signal_ends_it_at_once(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDS", "3600")
    with started("--engine", run_folder, code=("-c", SLOW)) as (process, port), ThreadPoolExecutor(1) as pool:
        lost = pool.submit(post, port)
        wait_for_requests(port, 1)
        process.send_signal(signal.SIGINT)
        while get(port, "/v2/health/ready")[0] == 200:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        status, body = lost.result()
        assert status == 503 and b"shutting down" in body


def test_a_port_in_use(run_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = serve("--engine", run_folder, "--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: port {port} of 127.0.0.1 is in use: stop what uses it, or choose another --port (0 takes a free one)\n"
    )


WRONG = {
    "": "--engine is missing",
    "--engine nowhere --port 0": "nowhere does not exist",
    "--engine a=": "--engine a= names no file: give PATH, NAME=PATH, or NAME=PATH:BtoA",
    "--engine a/b=x": "'a/b' cannot be in a URL",
    "--engine x.onnx y/x.onnx": "two engines are named x: give names",
    "--engine x --port 70000": "--port must be from 0 to 65535, got 70000",
    "--engine x --host 192.0.2.1": "--host 192.0.2.1: ",
    "--engine x --max-batch 0": "--max-batch must be from 1 to 1024, got 0",
    "--engine x --max-megapixels 17": "--max-megapixels must be from 0.0001 to 16, got 17",
    "--engine x --max-delay-ms nan": "--max-delay-ms must be from 0 to 10000, got nan",
    "--engin x": "unknown flag --engin, did you mean --engine?",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_is_one_sentence(words: str) -> None:
    done = serve(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and WRONG[words] in done.stderr


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("127.0.0.2", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_which_addresses_are_of_this_machine_alone(host: str, local: bool) -> None:
    with bind(host, 0) as listener:
        assert is_local(listener) == local


def test_an_answer_does_not_wait_until_its_head_is_confirmed() -> None:
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    done = serve("--engine", "x")
    assert done.returncode == 2
    assert done.stderr == "error: serving needs uvicorn: pip install 'cyclegan-fast[serve]'\n"


def test_the_names_of_engines() -> None:
    for word, name, direction in (
        ("runs/horse2zebra", "horse2zebra", None),
        ("runs/horse2zebra/best", "horse2zebra", None),
        ("runs/h/checkpoints/step_00000007:BtoA", "h", "BtoA"),
        ("x=runs/h:AtoB", "x", "AtoB"),
        ("horse2zebra.onnx", "horse2zebra", None),
        ("a/latest_net_G_A.pth", "latest_net_G_A", None),
    ):
        source = read_source(word)
        assert (source.name, source.direction) == (name, direction)


def test_importing_the_package_loads_no_server() -> None:
    extras = {"fastapi", "starlette", "uvicorn", "prometheus_client", "ray", "torch"}
    modules = "cyclegan_fast.serve, cyclegan_fast.serving, cyclegan_fast.translate, cyclegan_fast.export"
    code = f"import sys, {modules}; print(*({extras} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
