import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from itertools import count, islice

import pytest

from cyclegan_fast.data.loaders.prefetch import Prefetched


class Gated(Iterator[int]):
    """Counts up; each number waits for a permit. It knows how many were taken."""

    def __init__(self) -> None:
        self.permits, self.made = threading.Semaphore(0), 0

    def __next__(self) -> int:
        self.permits.acquire()
        self.made += 1
        return self.made - 1


def eventually(condition: Callable[[], bool]) -> None:
    """Waits for what another thread is about to do."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.001)


def ended(batches: "Prefetched[int]") -> Callable[[], bool]:
    thread = batches._thread
    return lambda: not thread.is_alive()


def test_all_in_order() -> None:
    batches = Prefetched(iter(range(500)), size_of=lambda _: 1)
    assert list(batches) == list(range(500))
    assert list(batches) == []  # and it stays ended
    assert ended(batches)()


def test_the_depth_grows_with_every_wait_but_the_first_up_to_its_limit() -> None:
    source = Gated()
    batches = Prefetched(source, size_of=lambda _: 1, max_batches=5)
    depths = []
    for _ in range(4):
        permit = threading.Timer(0.05, source.permits.release)  # after the consumer has come
        permit.start()
        next(batches)
        depths.append(batches.depth)
    assert depths == [2, 4, 5, 5]
    source.permits.release(100)
    eventually(lambda: source.made == 9)  # 4 were taken, 5 are held, and no more are made
    time.sleep(0.05)
    assert source.made == 9
    batches.close()


def test_a_source_that_keeps_up_stays_at_two() -> None:
    source = Gated()
    source.permits.release(1000)
    batches = Prefetched(source, size_of=lambda _: 1)
    for i in range(20):
        eventually(lambda i=i: source.made == i + 2)  # type: ignore[misc]
        assert next(batches) == i
    assert batches.depth == 2
    batches.close()


def test_bytes_are_limited_too() -> None:
    source = Gated()
    batches = Prefetched(source, size_of=lambda _: 100, max_bytes=350)
    for _ in range(3):
        threading.Timer(0.05, source.permits.release).start()
        next(batches)
    assert batches.depth == 8
    source.permits.release(100)
    eventually(lambda: source.made == 6)
    time.sleep(0.05)
    assert source.made == 6  # 3 taken, 3 held: a fourth would be 400 bytes
    batches.close()
    huge = Prefetched(count(), size_of=lambda _: 10**12)  # one is always held
    assert list(islice(huge, 5)) == [0, 1, 2, 3, 4]
    huge.close()


def test_an_error_comes_after_the_batches_before_it() -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise OSError("the disk is gone")

    batches = Prefetched(source(), size_of=lambda _: 1)
    assert list(islice(batches, 3)) == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)
    assert ended(batches)()


def test_close_ends_a_thread_that_waits_for_room() -> None:
    batches = Prefetched(count(), size_of=lambda _: 1)
    next(batches)
    batches.close()
    assert ended(batches)()
    with pytest.raises(StopIteration):
        next(batches)
    batches.close()


def test_a_dropped_one_ends_its_thread_and_lets_go_of_the_source() -> None:
    source = Gated()
    source.permits.release(1000)
    gone = weakref.ref(source)
    batches = Prefetched(source, size_of=lambda _: 1)
    next(batches)
    has_ended = ended(batches)
    del batches, source
    gc.collect()
    eventually(has_ended)
    assert gone() is None


def test_a_consumer_that_waits_is_woken_by_close() -> None:
    source = Gated()  # never gives anything
    batches = Prefetched(source, size_of=lambda _: 1)
    threading.Timer(0.05, batches._queue.close).start()
    with pytest.raises(StopIteration):
        next(batches)
    source.permits.release()
    eventually(ended(batches))


def test_ctrl_c_reaches_a_consumer_that_waits(default_sigint: None) -> None:
    source = Gated()  # never gives anything
    batches = Prefetched(source, size_of=lambda _: 1)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    threading.Timer(0.1, source.permits.release).start()  # what it was waiting for comes, and is dropped
    batches.close()
    assert ended(batches)()
