"""Blocks translated by the workers of a Ray cluster: Ray Data streams them to actors, each with one engine."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.translation.bulk.blocks import Block, BlockResult, Job, translate_block
from cyclegan_fast.engine.translation.bulk.share import blocks_at_a_time
from cyclegan_fast.errors import UserError, one_line
from cyclegan_fast.files import scratch_folder
from cyclegan_fast.monitoring.progress import Progress
from cyclegan_fast.telemetry import telemetry_disabled

log = logging.getLogger(__name__)

LOCAL = "local"  # in place of an address: RAY_ADDRESS, or else workers on this machine alone

_ANSWER_SECONDS = 10.0  # to wait for a cluster
_STORE_BYTES = 128 * 2**20  # of Ray's object store on this machine: blocks are names, and images never go there
_WINDOW = 50_000  # blocks that Ray is given at a time, as it takes some 50 kB of this process's memory for each
_MAX_FOLDER = 40  # characters of a path below which Ray makes sockets, whose whole path may have some 100
_TOKEN = "RAY_AUTH_TOKEN"  # by which the processes of a cluster know each other
_BLOCKS_PER_WORKER = 4  # at least, so that all workers end at about the same time

_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # with empty settings
_HTTP2_SETTINGS = 4  # the type of the first frame of an answer


class Cluster(NamedTuple):
    """A Ray cluster that this process is connected to."""

    ray: Any
    """The module."""
    is_own: bool
    """Whether it was started for this run, and cannot grow."""


class Workers(NamedTuple):
    """The actors of a bulk translation."""

    size: int
    cpus: int
    """Of each."""
    gpus: int
    """Of each."""

    @property
    def described(self) -> str:
        """What each has."""
        return f"{self.cpus} CPU{'s' * (self.cpus > 1)}{' and a GPU' * self.gpus}"

    def block_size(self, images: int, max_size: int, batch_size: int) -> int:
        """Returns how many images a block has: fewer than `max_size` where some workers would have none."""
        share = math.ceil(images / (self.size * _BLOCKS_PER_WORKER))
        return min(max(share, batch_size), max_size)


@contextlib.contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Yields a cluster; what was started here ends with the block.

    Args:
        address: HOST:PORT of the cluster, ``auto`` for the one that this machine is part of, or `LOCAL`.

    Raises:
        UserError: Ray is not installed, or nobody answers.
    """
    try:
        with telemetry_disabled():
            import ray
            import ray.data
    except ImportError as error:
        raise UserError(f"--ray needs Ray Data ({one_line(error)}): pip install 'cyclegan-fast[ray]'") from error
    if ray.is_initialized():  # by the program that calls this
        yield Cluster(ray, is_own=False)
        return
    if address == LOCAL:
        address = os.environ.get("RAY_ADDRESS", "")
    with contextlib.nullcontext() if address else _left_without_trace() as folder:
        try:
            _connect(ray, address, folder)
            yield Cluster(ray, is_own=not address)
        finally:
            ray.shutdown()


def find_workers(cluster: Cluster, device: str, threads: int | None, count: int | None) -> Workers:
    """Returns the workers for a cluster: one for each GPU, or without GPUs for each CPU or `threads` of them.

    Args:
        cluster: Where they run.
        device: auto, cpu or cuda.
        threads: CPU threads of each; by default one.
        count: How many; by default as many as fit.

    Raises:
        UserError: The cluster has not what they need.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: Ray gives each worker a GPU of its own; give --device cuda, cpu or auto")
    if count is not None and count < 1:
        raise UserError(f"--ray-workers must be a whole number of at least 1, got {count}")
    resources = cluster.ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if device == "cuda" and not gpus:
        raise UserError("--device cuda: the Ray cluster has no GPU: add a worker that has one, or give --device cpu")
    of_each = threads or 1
    on_gpus = gpus > 0 and device != "cpu"
    fitting = min(gpus, cpus // of_each) if on_gpus else cpus // of_each
    workers = Workers(fitting if count is None else count, of_each, int(on_gpus))
    if workers.size > fitting or not workers.size:
        what = f"the Ray cluster has {cpus} CPUs and {gpus} GPUs, and each worker takes {workers.described}"
        if cluster.is_own or not workers.size:
            raise UserError(f"{what}: give fewer --ray-workers or --threads, or add machines")
        log.warning("%s: %d of %d workers wait until machines join", what, workers.size - fitting, workers.size)
    return workers


def translate_on_ray(
    cluster: Cluster, job: Job, workers: Workers, blocks: list[Block], progress: Progress
) -> Iterator[BlockResult]:
    """Translates blocks, and yields what became of each as it is done, in any order.

    A worker that dies is replaced, and its blocks are done again. Blocks that kill each worker end the run when nothing
    else has been done for half an hour (RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S).

    Args:
        cluster: Where the workers run.
        job: What is translated, and how.
        workers: The actors.
        blocks: All there is to do.
        progress: Called with the files that are done, and how many there are.

    Raises:
        UserError: A worker cannot load the engine or write the results, or workers die again and again.
    """
    _silence(cluster.ray)
    finished, total = 0, sum(len(block.names) for block in blocks)
    with _errors_as_sentences(cluster.ray):
        for start in range(0, len(blocks), _WINDOW):
            some = blocks[start : start + _WINDOW]
            for row in _stream(cluster.ray, job, workers, some):
                if row["error"]:
                    raise UserError(row["error"])
                finished += len(some[int(row["number"])].names)
                progress(finished, total)
                yield BlockResult.from_json(row["result"])


def _stream(ray: Any, job: Job, workers: Workers, blocks: list[Block]) -> Iterator[dict[str, Any]]:
    """Yields the rows that the workers make of blocks: the number of the block, and its result or an error."""
    rows = [{"number": number, "block": json.dumps(block)} for number, block in enumerate(blocks)]
    calls = blocks_at_a_time(job, blocks)
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        fn_constructor_args=[job],
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=min(workers.size, len(blocks)),
            max_tasks_in_flight_per_actor=2 * calls,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=calls > 1,
        ),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )
    yield from results.iter_rows()


class _Worker:
    """An actor: loads the engine once, with its first block, and translates the blocks that it is given."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Translates a block: JSON in, JSON out; or the sentence of a `UserError`, which Ray would wrap in pages."""
        (text,) = batch["block"]
        try:
            with self._lock:  # not in __init__, whose errors cost the actor its life
                self._engine = self._engine or self._job.load()
            result = translate_block(self._engine, self._job, Block.from_json(str(text)))
        except UserError as error:
            return {"number": batch["number"], "result": [""], "error": [str(error)]}
        return {"number": batch["number"], "result": [result.to_json()], "error": [""]}


@contextlib.contextmanager
def _left_without_trace() -> Iterator[Path | None]:
    """Yields a folder for the logs and sockets that Ray would leave in /tmp/ray; None where it has to choose one.

    Where Ray would make a token, and leave it in the user's home, it is given one for this run alone.
    """
    makes_token = not _has_token()
    with scratch_folder() as folder:
        try:
            if makes_token:
                os.environ[_TOKEN] = secrets.token_hex(32)
            yield folder if len(str(folder)) <= _MAX_FOLDER and "RAY_TMPDIR" not in os.environ else None
        finally:
            if makes_token:
                os.environ.pop(_TOKEN, None)


def _has_token() -> bool:
    """Whether Ray finds a token that was there before."""
    if _TOKEN in os.environ or f"{_TOKEN}_PATH" in os.environ:
        return True
    try:
        return (Path.home() / ".ray" / "auth_token").is_file()
    except RuntimeError:  # a user without a home folder
        return False


def _connect(ray: Any, address: str, folder: Path | None) -> None:
    """Connects to a cluster, or starts workers on this machine where the address is empty."""
    if address and address != "auto":
        _refuse_unanswered(address)
    options: dict[str, Any] = {"address": address}
    if not address:
        options = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        options |= {"_temp_dir": str(folder)} if folder else {}
    on_sigterm = signal.getsignal(signal.SIGTERM)  # which Ray replaces by one that ends the program without a report
    try:
        ray.init(logging_level="ERROR", **options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    except (Exception, SystemExit) as error:  # with which Ray ends the program where a cluster stops to answer
        where = f"--ray {address}: cannot join this cluster" if address else "--ray: workers cannot be started here"
        raise UserError(f"{where} ({one_line(error)}): python -m cyclegan_fast.doctor lists the versions") from error


def _refuse_unanswered(address: str) -> None:
    """Refuses an address at which no server of Ray is, for which Ray itself would wait for minutes.

    Raises:
        UserError: It is no HOST:PORT, or nobody answers there.
    """
    match = re.fullmatch(r"\[?([\w.:-]+?)\]?:(\d{1,5})", address)
    if match is None:
        raise UserError(f"--ray must be auto, or HOST:PORT of a cluster, such as 10.0.0.1:6379, got '{address[:200]}'")
    try:
        with socket.create_connection((match[1], int(match[2])), timeout=_ANSWER_SECONDS) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--ray {address}: nobody answers ({one_line(error)}): start the cluster with `ray start --head`, or "
            "correct the address"
        ) from error
    if len(answer) < 4 or answer[3] != _HTTP2_SETTINGS:
        raise UserError(f"--ray {address}: what answers is not Ray: give the port of the head, 6379 by default")


def _silence(ray: Any) -> None:
    """Leaves progress and reports to us."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextlib.contextmanager
def _errors_as_sentences(ray: Any) -> Iterator[None]:
    """Turns what Ray throws into a `UserError`; a defect of ours in a worker stays what it is."""
    try:
        yield
    except (UserError, ray.exceptions.RayTaskError):
        raise
    except Exception as error:
        timed_out = type(error).__name__ == "ExecutionTimeoutError"  # where the release of Ray has that
        if not (timed_out or isinstance(error, ray.exceptions.RayError)):
            raise
        raise UserError(
            f"the workers of Ray do not get on ({one_line(error)}): perhaps they lack memory; the same command goes on "
            "with what is missing, with fewer --ray-workers or a smaller --batch-size"
        ) from error
