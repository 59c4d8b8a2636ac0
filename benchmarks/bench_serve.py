"""The server under load, beside a plain FastAPI handler that calls `infer`, and beside the engine without any server.

    pytest benchmarks/bench_serve.py --benchmark-only            64 answers of a tiny network, to some clients
    python -m benchmarks.bench_serve --out docs/results          minutes; serve.json, and its tables in serve.md

Clients are coroutines of this process, on connections that stay open: each sends an image of its own, waits for the
answer, compares it with the engine's, and sends the next. Both servers are processes of their own, both there all the
time, and take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.harness import timed_rounds
from benchmarks.results import origin, stamped, write_between_markers, write_json
from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.engine import infer, load_engine
from cyclegan_fast.nn import build_networks

CLIENTS = (1, 16, 64, 500)
IMAGES = 64  # different ones
BATCH = 8
LEVELS = 1  # by which an answer may differ from the engine's, of 255: batches round in another order
NETWORKS = {
    "tiny": (ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4), 64),
    "small": (ModelConfig(generator="resnet_6blocks", ngf=16, ndf=16), 64),
    "large": (ModelConfig(generator="resnet_6blocks", ngf=32, ndf=16), 128),
}
PLAIN = """
import io, sys
import cyclegan_fast, uvicorn
from fastapi import FastAPI, Request, Response

app = FastAPI()
engine = cyclegan_fast.load_engine(sys.argv[1], device="cpu", threads=1)
engine.warmup()

def answer(body):
    buffer = io.BytesIO()
    cyclegan_fast.infer(engine, body).save(buffer, "PNG")
    return buffer.getvalue()

@app.post("/translate")
async def translate(request: Request):
    from starlette.concurrency import run_in_threadpool
    return Response(await run_in_threadpool(answer, await request.body()), media_type="image/png")

uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
"""


@dataclass
class Load:
    """What some clients saw of a server."""

    network: str
    server: str
    clients: int
    images_per_second: float
    p50_ms: float
    p99_ms: float
    answers: int
    refused: int
    """Answers by 429; the client tries again after a moment."""
    wrong: int
    """Answers of another image, or of none."""
    cpu_ms: float = 0.0
    """Processor time of the server for an answer, all threads; what else the machine does changes it little."""
    images_per_batch: float = 0.0
    growth_mb: float = 0.0
    """How much larger the server's resident memory is after the load than after its first quarter."""


def make_run(folder: Path, model: ModelConfig) -> Path:
    """A run's folder with one checkpoint of a network that was not trained."""
    torch.manual_seed(0)
    config = TrainConfig(model=model)
    save_checkpoint(folder / "checkpoints", 1, networks=build_networks(model), config=config, progress={"step": 1})
    return folder


def encoded(seed: int, side: int) -> bytes:
    buffer, rng = io.BytesIO(), np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    small.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


# ---- The servers.
@contextlib.contextmanager
def started(command: Sequence[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                asyncio.run(_Client(port).ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, "the server did not start"
                time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def servers(run: Path, port: int) -> dict[str, list[str]]:
    """The command lines of both, on that port and the next one."""
    ours = f"-m cyclegan_fast.serve --engine {run}:AtoB --port {port} --device cpu --threads 1 --max-queue 1000"
    return {
        "serve": [*ours.split(), "--max-batch", str(BATCH)],
        "plain handler": ["-c", PLAIN, str(run), str(port + 1)],
    }


class _Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Sends a request; returns status and body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        (length,) = re.findall(rb"content-length: (\d+)", head)
        body = await reader.readexactly(int(length))
        if b"connection: close" in head:
            writer.close()
            self._streams = None
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


def post(body: bytes) -> bytes:
    head = (
        f"POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def load(
    port: int, clients: int, seconds: float, requests: list[bytes], expected: list[np.ndarray]
) -> Counter[str]:
    """Runs clients for a time; returns counts, and the latencies as "ms:<...>" of each right answer."""
    outcome: Counter[str] = Counter()
    times: list[float] = []
    start = time.perf_counter()

    async def client(number: int) -> None:
        connection, i = _Client(port), number % len(requests)
        try:
            while time.perf_counter() - start < seconds:
                sent = time.perf_counter()
                status, body = await connection.ask(requests[i])
                while status == 429:
                    outcome["refused"] += 1
                    await asyncio.sleep(0.1)
                    status, body = await connection.ask(requests[i])
                times.append(time.perf_counter() - sent)
                outcome["right" if status == 200 and _is_right(body, expected[i]) else "wrong"] += 1
                i = (i + clients) % len(requests)
        finally:
            connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    outcome["us"] = int(1e6 * (time.perf_counter() - start))
    for name, part in (("p50", 50), ("p99", 99)):
        outcome[name] = int(1e6 * float(np.percentile(times, part)))
    return outcome


def _is_right(body: bytes, expected: np.ndarray) -> bool:
    with Image.open(io.BytesIO(body)) as image:
        found = np.array(image)
    return found.shape == expected.shape and int(np.abs(found.astype(int) - expected).max()) <= LEVELS


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Processor time that a process has used, user's and system's."""
    times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def batches_of(port: int) -> tuple[float, float]:
    """Batches and images that our server has computed."""
    text = asyncio.run(_Client(port).ask(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"))[1].decode()
    found = {
        name: float(value)
        for name, value in re.findall(r"^cyclegan_batch_images_(count|sum)\{.*?\} (\S+)$", text, re.M)
    }
    return found["count"], found["sum"]


def measure(network: str, run: Path, side: int, words: argparse.Namespace) -> list[Load]:
    """Both servers with every number of clients, in turns; medians over the rounds."""
    bodies = [encoded(seed, side) for seed in range(IMAGES)]
    requests, found = [post(body) for body in bodies], []
    with load_engine(run, direction="AtoB", device="cpu", threads=1) as engine:
        expected = [np.array(image).astype(int) for image in infer(engine, bodies, batch_size=1)]
    with contextlib.ExitStack() as stack:
        running = []
        for port, (name, command) in enumerate(servers(run, words.port).items(), words.port):
            running.append((name, port, stack.enter_context(started(command, port))))
        for clients in words.clients:
            rounds: dict[str, list[Load]] = {}
            for _ in range(words.rounds):
                for name, port, process in running:
                    asyncio.run(load(port, min(clients, 16), words.seconds / 4, requests, expected))  # warm
                    before, memory = batches_of(port) if name == "serve" else (0, 0), resident_mb(process)
                    cpu = cpu_seconds(process)
                    seen = asyncio.run(load(port, clients, words.seconds, requests, expected))
                    cpu = cpu_seconds(process) - cpu
                    after = batches_of(port) if name == "serve" else (0, 0)
                    batches = after[0] - before[0]
                    one = Load(
                        network=network,
                        server=name,
                        clients=clients,
                        images_per_second=1e6 * seen["right"] / seen["us"],
                        p50_ms=seen["p50"] / 1e3,
                        p99_ms=seen["p99"] / 1e3,
                        answers=seen["right"],
                        refused=seen["refused"],
                        wrong=seen["wrong"],
                        cpu_ms=1e3 * cpu / seen["right"],
                        images_per_batch=(after[1] - before[1]) / batches if batches else 1.0,
                        growth_mb=resident_mb(process) - memory,
                    )
                    print(one, flush=True)
                    rounds.setdefault(name, []).append(one)
            found += [_over_rounds(loads) for loads in rounds.values()]
    return found


def _over_rounds(loads: list[Load]) -> Load:
    """Medians of what was timed, the sum of what was counted, and all growth."""
    values = {name: [getattr(one, name) for one in loads] for name in asdict(loads[0])}
    summed = {name: sum(values[name]) for name in ("answers", "refused", "wrong", "growth_mb")}
    timed = ("images_per_second", "p50_ms", "p99_ms", "cpu_ms", "images_per_batch")
    return replace(loads[0], **summed, **{name: float(np.median(values[name])) for name in timed})


# ---- By pytest.
@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a server of the tiny network, and requests."""
    model, side = NETWORKS["tiny"]
    run, port = make_run(tmp_path_factory.mktemp("run"), model), _free_port()
    with started(servers(run, port)["serve"], port):
        yield port, [post(encoded(seed, side)) for seed in range(IMAGES)]


@pytest.mark.parametrize("clients", [1, 4, 16])
def test_answers(benchmark: Any, server: tuple[int, list[bytes]], clients: int) -> None:
    port, requests = server

    def ask_all() -> set[int]:
        return asyncio.run(_statuses(port, [requests[i::clients] for i in range(clients)]))

    assert benchmark.pedantic(ask_all, rounds=timed_rounds(10), warmup_rounds=1) == {200}


async def _statuses(port: int, shares: list[list[bytes]]) -> set[int]:
    """Has each client send its share, one request after the other; returns the status codes of all answers."""

    async def client(requests: list[bytes]) -> set[int]:
        connection = _Client(port)
        try:
            return {(await connection.ask(request))[0] for request in requests}
        finally:
            connection.close()

    return set().union(*await asyncio.gather(*map(client, shares)))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# ---- The engine alone.
def engine_alone(run: Path, side: int, rounds: int) -> dict[str, float]:
    """Images a second of one thread, in turns: the network with batches of 1 and 8, and file to file, one by one."""
    bodies = [encoded(seed, side) for seed in range(BATCH)]
    with load_engine(run, direction="AtoB", device="cpu", threads=1) as engine:
        batch = torch.rand(BATCH, 3, side, side) * 2 - 1

        def one_by_one() -> None:
            for image in batch:
                engine.run(image[None])

        def files() -> None:
            for body in bodies:
                infer(engine, body).save(io.BytesIO(), "PNG")

        cases = {"network, batches of 1": one_by_one, f"network, batches of {BATCH}": lambda: engine.run(batch)}
        cases["file to file, one by one"] = files
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(rounds + 2):
            for name, case in cases.items():
                start = time.perf_counter()
                case()
                times[name].append(time.perf_counter() - start)
    return {name: BATCH / float(np.median(values[2:])) for name, values in times.items()}


# ---- The page.
def tables(results: dict[str, Any]) -> list[str]:
    """The measured part of the page."""
    alone = results["engine"]
    lines = ["## The engine alone, one thread, images/s", "", *_table("network", *next(iter(alone.values())))]
    lines += [_row(name, *(f"{value:.0f}" for value in of.values())) for name, of in alone.items()]
    titles = (
        "network",
        "clients",
        "server",
        "images/s",
        "times the plain handler",
        "p50 ms",
        "p99 ms",
        "CPU ms an image",
    )
    lines += ["", "## The servers", "", *_table(*titles, "images a batch", "answers", "wrong", "memory grew, MB")]
    plain = {(one["network"], one["clients"]): one for one in results["load"] if one["server"] != "serve"}
    for one in results["load"]:
        speed = one["images_per_second"]
        times = speed / plain[one["network"], one["clients"]]["images_per_second"]
        cells = [one["network"], one["clients"], one["server"], f"{speed:.0f}", f"{times:.2f}"]
        cells += [f"{one[name]:.0f}" for name in ("p50_ms", "p99_ms")]
        cells += [
            f"{one['cpu_ms']:.1f}",
            f"{one['images_per_batch']:.1f}",
            one["answers"],
            one["wrong"],
            f"{one['growth_mb']:+.0f}",
        ]
        lines.append(_row(*cells))
    return lines


def _table(*titles: str) -> list[str]:
    return [_row(*titles), "|---" * len(titles) + "|"]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3, help="loads of each server, in turns")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=["tiny", "small"])
    parser.add_argument("--clients", nargs="+", type=int, default=CLIENTS)
    parser.add_argument("--port", type=int, default=8765)
    words = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"engine": {}, "load": []}
    with tempfile.TemporaryDirectory() as scratch:
        for name in words.networks:
            model, side = NETWORKS[name]
            run = make_run(Path(scratch) / name, model)
            title = f"{name}: {model.generator}, ngf {model.ngf}, {side} px"
            results["engine"][title] = engine_alone(run, side, 10)
            print(title, results["engine"][title], flush=True)
            results["load"] += [asdict(one) for one in measure(name, run, side, words)]
    measured = stamped([results])
    write_json(words.out / "serve.json", measured)
    if (page := words.out / "serve.md").exists():
        write_between_markers(page, [*origin(measured), "", *tables(results), ""])


if __name__ == "__main__":
    main()
