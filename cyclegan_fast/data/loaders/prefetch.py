"""Batches prepared ahead by a thread, as many as the training turns out to need."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_BATCHES = 64
MAX_BYTES = 512 * 2**20
CLOSE_SECONDS = 5.0  # that `close` waits for the batch in the making; its thread ends after it in any case
POLL_SECONDS = 0.1  # between two looks at whether the batch that is waited for is still wanted


class WaitCancelledError(Exception):
    """The batch that was waited for is no longer wanted."""


class Prefetched(Iterator[T], Generic[T]):
    """Yields what `source` yields, taken from it by a thread.

    The thread starts with two batches ahead. Whenever the consumer finds none ready, from the second time on, it goes
    twice as far ahead, up to the limits: uneven decoding times are evened out, and a source that keeps up holds no
    more than it must. An error of the source reaches the consumer in its turn, after the batches before it.

    Args:
        source: Used by the thread alone from now on.
        size_of: Bytes of a batch.
        max_batches: Never more than this many are held,
        max_bytes: nor more than this many bytes, one batch excepted.
    """

    def __init__(
        self,
        source: Iterator[T],
        size_of: Callable[[T], int],
        *,
        max_batches: int = MAX_BATCHES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._queue: _Queue[T] = _Queue(size_of, max_batches, max_bytes)
        # The thread knows the queue and not this object, which can so be dropped like any other iterator.
        self._thread = threading.Thread(target=_fill, args=(self._queue, source), name="prefetch", daemon=True)
        weakref.finalize(self, self._queue.close)
        self._thread.start()

    def __next__(self) -> T:
        """Returns the next batch; waits for it where none is ready."""
        return self.take(lambda: False)

    def take(self, cancelled: Callable[[], bool]) -> T:
        """Returns the next batch; waits for it where none is ready, as long as `cancelled` returns False.

        Raises:
            WaitCancelledError: It is no longer wanted.
        """
        return self._queue.take(cancelled)

    @property
    def depth(self) -> int:
        """Batches that are prepared ahead at the moment."""
        return self._queue.depth

    def close(self) -> None:
        """Drops what was prepared and ends the thread, which lets go of the source."""
        self._queue.close()
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)


class _Queue(Generic[T]):
    """Batches between the thread that makes them and the consumer that takes them."""

    def __init__(self, size_of: Callable[[T], int], max_batches: int, max_bytes: int) -> None:
        self.size_of, self.max_batches, self.max_bytes = size_of, max_batches, max_bytes
        self.depth = min(2, max_batches)
        self.changed = threading.Condition()
        self.batches: deque[tuple[T, int]] = deque()
        self.bytes_held, self.taken = 0, 0
        self.end: BaseException | None = None  # what ended the source; StopIteration where it had no more
        self.closed = False

    def put(self, batch: T) -> None:
        with self.changed:
            size = self.size_of(batch)
            self.batches.append((batch, size))
            self.bytes_held += size
            self.changed.notify_all()

    def wait_for_room(self) -> bool:
        """Returns, once another batch is wanted, True; or False, once none will be."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self._has_room())
            return not self.closed

    def _has_room(self) -> bool:
        held = len(self.batches)
        # The next batch is taken to be as large as the mean of those that are here.
        return held == 0 or (held < self.depth and self.bytes_held * (held + 1) <= self.max_bytes * held)

    def finish(self, end: BaseException) -> None:
        with self.changed:
            self.end = end
            self.changed.notify_all()

    def take(self, cancelled: Callable[[], bool]) -> T:
        with self.changed:
            if not self.batches and self.end is None and not self.closed:
                if self.taken:  # the first batch is always waited for
                    self.depth = min(2 * self.depth, self.max_batches)
                    self.changed.notify_all()
                while not self.changed.wait_for(self._has_come, POLL_SECONDS):
                    if cancelled():
                        raise WaitCancelledError
            if not self.batches:
                raise StopIteration if self.end is None else self.end
            batch, size = self.batches.popleft()
            self.bytes_held -= size
            self.taken += 1
            self.changed.notify_all()
            return batch

    def _has_come(self) -> bool:
        return bool(self.batches) or self.end is not None or self.closed

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.batches.clear()
            self.bytes_held = 0
            self.changed.notify_all()


def _fill(queue: _Queue[T], source: Iterator[T]) -> None:
    """The thread: batches onto the queue, until it is closed or the source ends."""
    try:
        while queue.wait_for_room():
            queue.put(next(source))
    except BaseException as error:  # of any kind: the consumer learns of it, or it would wait for ever
        queue.finish(error)
