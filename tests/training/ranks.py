"""Starts ranks, each a process that torch is imported into already, so that a test of them takes seconds."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
SECONDS = 120.0  # after which a rank that has not ended fails the test


@dataclass
class Rank:
    """One process, whose output goes to files."""

    process: Any
    folder: Path

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def started(folder: Path, task: Callable[..., object], *arguments: Sequence[Any]) -> Iterator[list[Rank]]:
    """Starts a rank for each list of arguments, which `task` gets; ends those that are left."""
    CONTEXT.set_forkserver_preload(["tests.training.ranks_preload"])
    port, world = free_port(), len(arguments)
    ranks = []
    for rank, given in enumerate(arguments):
        out = folder / f"rank_{rank}_{time.monotonic_ns()}"
        out.mkdir(parents=True)
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
        environment = {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in variables.items()}}
        process = CONTEXT.Process(target=_run, args=(environment, str(out), task, list(given)), daemon=True)
        process.start()
        ranks.append(Rank(process, out))
    try:
        yield ranks
    finally:
        for one in ranks:
            one.process.kill()
            one.process.join()


def _run(environment: dict[str, str], folder: str, task: Callable[..., object], arguments: Sequence[Any]) -> None:
    os.environ.update(environment)
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        os.dup2(os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT), stream.fileno())
    task(*arguments)


def train(words: Sequence[object]) -> None:
    """Runs the command that trains."""
    from cyclegan_fast.train import main

    main(list(map(str, words)))


def ended(ranks: Sequence[Rank], seconds: float = SECONDS) -> list[subprocess.CompletedProcess[str]]:
    """Returns what the ranks have shown, once all have ended."""
    deadline = time.monotonic() + seconds
    for rank in ranks:
        rank.process.join(max(0.0, deadline - time.monotonic()))
        assert rank.process.exitcode is not None, f"it runs on: {rank.stdout}\n{rank.stderr}"
    return [subprocess.CompletedProcess("", r.process.exitcode, r.stdout, r.stderr) for r in ranks]


def trained(folder: Path, *words: Sequence[object]) -> list[subprocess.CompletedProcess[str]]:
    """Trains with a rank for each command line, to the end."""
    with started(folder, train, *([given] for given in words)) as ranks:
        return ended(ranks)
