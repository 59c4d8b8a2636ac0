"""Blocks translated by the workers of a Ray cluster: Ray Data streams them to actors, each with one engine."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.translation.bulk.blocks import Block, BlockResult, Job, translate_block
from cyclegan_fast.engine.translation.bulk.ray_cluster import Cluster
from cyclegan_fast.engine.translation.bulk.share import blocks_at_a_time
from cyclegan_fast.errors import UserError, one_line
from cyclegan_fast.monitoring.progress import Progress

log = logging.getLogger(__name__)

_WINDOW = 50_000  # blocks that Ray is given at a time, as it takes some 50 kB of this process's memory for each
_BLOCKS_PER_WORKER = 4  # at least, so that all workers end at about the same time


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
