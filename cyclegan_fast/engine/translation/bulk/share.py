"""Blocks translated by this process, with one engine."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.translation.bulk.blocks import Block, BlockResult, Job, translate_block
from cyclegan_fast.monitoring.progress import Progress

_IN_FLIGHT = 2  # blocks at a time where files travel: while one is computed another is fetched or stored


def blocks_at_a_time(job: Job, blocks: list[Block]) -> int:
    """How many blocks a process works on side by side.

    Without a copy of files there is nothing to overlap: a block reads, computes and writes at once by itself.
    """
    return 1 if all(job.is_in_place(block) for block in blocks) else _IN_FLIGHT


class _StoppedError(Exception):
    """The translation of a block is to end."""


def translate_here(job: Job, blocks: list[Block], progress: Progress) -> Iterator[BlockResult]:
    """Translates blocks, and yields what became of each, in their order.

    Args:
        job: What is translated, and how.
        blocks: What this process has to do.
        progress: Called with the files that are done, and how many there are; of a large one with fractions.

    Raises:
        UserError: The engine cannot be loaded, or nothing can be written.
    """
    if not blocks:
        return
    engine = job.load()
    if blocks_at_a_time(job, blocks) == 1:
        yield from _one_by_one(engine, job, blocks, progress)
    else:
        yield from _overlapping(engine, job, blocks, progress)


def _one_by_one(engine: Engine, job: Job, blocks: list[Block], progress: Progress) -> Iterator[BlockResult]:
    finished, total = 0, sum(len(block.names) for block in blocks)

    def within(done: float, _: float) -> None:
        progress(finished + done, total)

    for block in blocks:
        yield translate_block(engine, job, block, within)
        finished += len(block.names)


def _overlapping(engine: Engine, job: Job, blocks: list[Block], progress: Progress) -> Iterator[BlockResult]:
    stop = threading.Event()

    def check(*_: float) -> None:
        if stop.is_set():
            raise _StoppedError

    with ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="cyclegan_fast.blocks") as pool:
        waiting: deque[tuple[Block, Future[BlockResult]]] = deque()
        rest = iter(blocks)
        finished, total = 0, sum(len(block.names) for block in blocks)
        try:
            for block in blocks[:_IN_FLIGHT]:
                waiting.append((next(rest), pool.submit(translate_block, engine, job, block, check)))
            while waiting:
                block, future = waiting.popleft()
                result = future.result()
                if (following := next(rest, None)) is not None:
                    waiting.append((following, pool.submit(translate_block, engine, job, following, check)))
                finished += len(block.names)
                progress(finished, total)
                yield result
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
