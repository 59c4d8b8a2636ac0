"""Many calls at a time, and a close that waits for them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from cyclegan_fast.errors import UserError

_THREADS = 2  # for submitted calls: while one prepares its images, another computes


class Lifecycle:
    """Counts the running calls as a readers-writer lock counts its readers; closing is the one writer.

    A thread that is inside a call may begin further calls, also while the engine is being closed.

    Args:
        name: Of the engine, for messages.
        inherited: A forked process has the engine from its parent: closing it frees nothing.
        refusal: Why it takes no calls; empty where it does.
    """

    def __init__(self, name: str, *, inherited: bool = False, refusal: str = "") -> None:
        self._name, self._inherited, self._refusal = name, inherited, refusal
        self._changed = threading.Condition()
        self._calls = 0  # running or submitted
        self._thread = threading.local()  # .depth: how many of the calls this thread is inside of
        self._pool: ThreadPoolExecutor | None = None
        self._released = False
        self.closed = False

    def check_open(self) -> None:
        """Refuses a new call of a closed engine, and of one that takes none.

        Raises:
            UserError: It is one of them.
        """
        if self._refusal:
            raise UserError(self._refusal)
        if self.closed and not self._depth:
            raise UserError(f"{self._name} is closed: load it again")

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Keeps the engine open within the block.

        Raises:
            UserError: It is closed.
        """
        self._begin()
        try:
            with self._inside():
                yield
        finally:
            self._end()

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Runs a function on a thread of its own; it counts as a call from now on.

        Raises:
            UserError: The engine is closed.
        """

        def counted() -> Any:
            with self._inside():
                return function()

        self._begin()
        with self._changed:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="cyclegan_fast.infer")
        future = self._pool.submit(counted)
        future.add_done_callback(lambda _: self._end())  # of one that is cancelled, too
        return future

    def close(self, release: Callable[[], None]) -> None:
        """Admits no more calls, waits for those of other threads, and calls `release` once."""
        with self._changed:
            if self.closed:
                self._changed.wait_for(lambda: self._released or self._depth > 0)
                return
            self.closed = True
            self._changed.wait_for(lambda: self._calls <= self._depth)
            if self._pool is not None:
                self._pool.shutdown(wait=False)  # its threads have nothing left to do; this may be one of them
            if not self._inherited:  # else it would wait for threads that are in the parent alone
                release()
            self._released = True
            self._changed.notify_all()

    @property
    def _depth(self) -> int:
        return getattr(self._thread, "depth", 0)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        self._thread.depth = self._depth + 1
        try:
            yield
        finally:
            self._thread.depth -= 1

    def _begin(self) -> None:
        with self._changed:
            self.check_open()
            self._calls += 1

    def _end(self) -> None:
        with self._changed:
            self._calls -= 1
            self._changed.notify_all()
