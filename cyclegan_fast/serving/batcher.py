"""Dynamic batching: images that wait for one engine pass it together, if they have one size.

A batch starts when a thread of the engine is free and the batch is full, or its oldest image has waited for the delay,
or no other image is on its way, for which it would pay to wait. While the engine computes, what comes is collected: so
batches grow with the load by themselves, and a lone image never waits. All methods run in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from cyclegan_fast.device import usable_cores
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.inference import translate_values
from cyclegan_fast.errors import UserError
from cyclegan_fast.serving.faults import RequestError
from cyclegan_fast.serving.limits import Limits

log = logging.getLogger(__name__)

Size = tuple[int, int]
Observer = Callable[[int, float], None]  # images of a batch, seconds that it took

_THREADS = 2  # of an engine, for submitted calls: while one prepares its images, another computes


@dataclass(eq=False)
class _Waiting:
    """An image in the queue."""

    values: Tensor  # float32 [C, H, W]
    due: float  # when it has waited long enough, by the loop's clock
    result: asyncio.Future[Tensor]


class Batcher:
    """The queue before one engine.

    Args:
        engine: What computes, on its own threads.
        limits: Of batches, and of the delay.
        observe: Called with each batch that was computed.
    """

    def __init__(self, engine: Engine, limits: Limits, observe: Observer = lambda *_: None) -> None:
        self.engine, self._limits, self._observe = engine, limits, observe
        self._groups: dict[Size, deque[_Waiting]] = {}  # by the size that the network takes; never empty
        self._slots = batches_at_a_time(engine)
        self._expected = 0
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return sum(map(len, self._groups.values()))

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """A block in which an image is on its way to the queue, such as its decoding."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            self._wake()

    async def translate(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Translates images, float32 [C, H, W] each; cancelled, it takes them out of the queue.

        Raises:
            RequestError: The engine failed on one of them.
        """
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(values, loop.time() + self._limits.max_delay, loop.create_future()) for values in images]
        for one in waiting:
            self._groups.setdefault(self._size(one), deque()).append(one)
        self._wake()
        try:
            return list(await asyncio.gather(*(one.result for one in waiting)))
        finally:
            for one in waiting:
                self._forget(one)

    def _size(self, one: _Waiting) -> Size:
        """(height, width) of an image once its sides suit the network."""
        return self.engine.limits.fitting_size(*one.values.shape[1:])

    def _forget(self, one: _Waiting) -> None:
        one.result.cancel()
        group = self._groups.get(size := self._size(one), deque())
        if one in group:
            group.remove(one)
            if not group:
                del self._groups[size]

    def _wake(self) -> None:
        """Starts batches once what the loop has ready has run: it may put more images into the queue."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(0, self._start_batches)

    def _start_batches(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while len(self._running) < self._slots and (batch := self._next_batch()):
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start_batches()

    def _next_batch(self) -> list[_Waiting]:
        """The oldest batch that need not wait any longer; where all of them must, the timer is set."""
        loop = asyncio.get_running_loop()
        for size, group in self._groups.items():
            full = self._largest(size)
            if not self._expected or len(group) >= full or group[0].due <= loop.time():
                batch = [group.popleft() for _ in range(min(full, len(group)))]
                del self._groups[size]
                if group:
                    self._groups[size] = group  # behind those that have waited as long
                return batch
        if self._groups:
            due = min(group[0].due for group in self._groups.values())
            self._timer = loop.call_at(due, self._start_batches)
        return []

    def _largest(self, size: Size) -> int:
        """Images of a size that go into one batch."""
        by_memory = max(1, self._limits.max_pixels // (size[0] * size[1]))
        return min(self.engine.limits.batch_size(self._limits.max_batch), by_memory)

    async def _run(self, batch: list[_Waiting]) -> None:
        """All in one call; if that fails, each in a call of its own, so that the fault is its own."""
        try:
            results = await self._compute(batch)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            for one in batch:
                if not one.result.done():
                    await self._run([one])
            return
        for one, result in zip(batch, results, strict=True):
            if not one.result.done():
                one.result.set_result(result)

    async def _compute(self, batch: list[_Waiting]) -> list[Tensor]:
        values, start = [one.values for one in batch], time.perf_counter()
        call = functools.partial(translate_values, self.engine, values, batch_size=len(values))
        results: list[Tensor] = await asyncio.wrap_future(self.engine.submit(call))
        self._observe(len(batch), time.perf_counter() - start)
        return results


def batches_at_a_time(engine: Engine) -> int:
    """How many batches an engine computes side by side: on a CPU as many as it has cores for."""
    return _THREADS if engine.threads is None else max(1, min(_THREADS, usable_cores() // engine.threads))


def _fail(one: _Waiting, error: Exception) -> None:
    """An image that was read and fits is not at fault."""
    if not one.result.done():
        fault = RequestError(500, f"the engine failed: {error}") if isinstance(error, UserError) else error
        one.result.set_exception(fault)
