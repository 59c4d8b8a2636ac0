"""Which images pass the engine together, and what becomes of each where something fails."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from cyclegan_fast.errors import UserError
from cyclegan_fast.serving.batcher import batches_at_a_time
from cyclegan_fast.serving.limits import Limits
from tests.engine.identity import Identity
from tests.serving.running import Answer, Gated, Running, pixels_of, png, running

ONE = Limits(max_batch=4, timeout=30)


def wait_for_queue(server: Running, name: str, images: int) -> None:
    """Until so many images wait for the engine."""
    changed = threading.Event()
    model = server.service.models[name]
    for _ in range(30_000):
        if model.loaded is not None and model.loaded.batcher.waiting == images:
            return
        changed.wait(0.002)
    raise AssertionError(f"{images} images never waited")


def post_all(server: Running, pool: ThreadPoolExecutor, images: list[np.ndarray]) -> list[Any]:
    return [pool.submit(server.post, "/translate", png(pixels)) for pixels in images]


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch):
    """A server whose engine computes one batch at a time, and waits in it."""
    monkeypatch.setattr("cyclegan_fast.serving.batcher.batches_at_a_time", lambda engine: 1)
    engine = Gated()
    with running({"gated": engine}, ONE) as server, ThreadPoolExecutor(16) as pool:
        engine.seen.clear()
        engine.hold()
        yield server, engine, pool
        engine.release()


def test_what_waits_becomes_one_batch_of_each_size(gated) -> None:
    server, engine, pool = gated
    images = [pixels_of(i) for i in range(7)] + [pixels_of(i, 40, 40) for i in range(2)]
    first = post_all(server, pool, images[:1])
    engine.entered.acquire()
    rest = []
    for i in range(1, 9):  # one after the other, so that their order is known
        rest += post_all(server, pool, images[i : i + 1])
        wait_for_queue(server, "gated", i)
    engine.release()
    for pixels, answer in zip(images, [*first, *rest], strict=True):
        assert np.array_equal(answer.result().pixels, pixels)
    # the oldest size first; what is left of it queues up behind the other size
    assert engine.seen == [(1, 3, 16, 24), (4, 3, 16, 24), (2, 3, 40, 40), (2, 3, 16, 24)]


def test_a_batch_holds_no_more_pixels_than_an_image_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan_fast.serving.batcher.batches_at_a_time", lambda engine: 1)
    engine = Gated()
    with running({"g": engine}, Limits(max_batch=8, max_pixels=2 * 16 * 24)) as server, ThreadPoolExecutor(8) as pool:
        engine.seen.clear()
        engine.hold()
        answers = post_all(server, pool, [pixels_of(0)])
        engine.entered.acquire()
        answers += post_all(server, pool, [pixels_of(i) for i in range(1, 5)])
        wait_for_queue(server, "g", 4)
        engine.release()
        assert all(answer.result().status == 200 for answer in answers)
    assert [shape[0] for shape in engine.seen] == [1, 2, 2]


def test_a_lone_image_does_not_wait_for_others() -> None:
    engine = Identity()
    with running({"identity": engine}, Limits(max_delay=3600, timeout=30)) as server:
        assert server.post("/translate", png(pixels_of())).status == 200


def test_an_image_waits_for_others_that_are_on_their_way_but_not_for_ever() -> None:
    with running({"identity": Identity()}, Limits(max_delay=0.05)) as server:
        (model,) = server.service.models.values()
        waiting = model.loaded.batcher.expecting()  # an image whose decoding never ends
        server.loop.call_soon_threadsafe(waiting.__enter__)
        assert server.post("/translate", png(pixels_of())).status == 200
        server.loop.call_soon_threadsafe(waiting.__exit__, None, None, None)


class Picky(Gated):
    """Fails on a batch that holds a black image; what it raises is chosen by the test."""

    error: Exception = UserError("picky met a black image")

    def _compute(self, batch: Any) -> Any:
        result = super()._compute(batch)
        if (batch == -1).flatten(1).all(1).any():
            raise self.error
        return result


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("picky met a black image"), "the engine failed: picky met a black image"),
        (RuntimeError("a bug"), "the server failed, and its log says how"),
    ],
    ids=["UserError", "bug"],
)
def test_where_one_image_of_a_batch_fails_the_others_are_answered(
    monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str, user_sees
) -> None:
    monkeypatch.setattr("cyclegan_fast.serving.batcher.batches_at_a_time", lambda engine: 1)
    engine = Picky()
    engine.error = error
    images = [pixels_of(i) for i in range(4)] + [np.zeros((16, 24, 3), np.uint8)] + [pixels_of(i) for i in range(5, 8)]
    with running({"picky": engine}, Limits(max_batch=8)) as server, ThreadPoolExecutor(8) as pool:
        engine.hold()
        answers = post_all(server, pool, images[:1])
        engine.entered.acquire()
        answers += post_all(server, pool, images[1:])
        wait_for_queue(server, "picky", 7)
        engine.release()
        for i, (pixels, future) in enumerate(zip(images, answers, strict=True)):
            answer: Answer = future.result()
            if i == 4:
                assert answer.status == 500 and answer.error == sentence
                user_sees(answer.error)
            else:
                assert answer.status == 200 and np.array_equal(answer.pixels, pixels)
        metrics = server.get("/metrics").body.decode()
        assert re.search(r'cyclegan_requests_total{endpoint="/translate",engine="picky",status="500"} 1.0', metrics)


def test_two_batches_are_computed_at_a_time_where_cores_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan_fast.serving.batcher.usable_cores", lambda: 4)
    engine, expected = Identity(), {None: 2, 1: 2, 2: 2, 3: 1, 4: 1, 8: 1}
    for threads, batches in expected.items():
        object.__setattr__(engine.info, "threads", threads)
        assert batches_at_a_time(engine) == batches
