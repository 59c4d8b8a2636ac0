"""Engines are loaded again without a gap."""

from __future__ import annotations

import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")

from cyclegan_fast.engine import Engine
from cyclegan_fast.errors import UserError
from cyclegan_fast.serving.limits import Limits
from cyclegan_fast.serving.models import Engines
from tests.engine.identity import Identity
from tests.serving.running import Gated, Running, pixels_of, png, running


class Negative(Identity):
    """Turns black into white: whose answer it is can be seen."""

    def _compute(self, batch: torch.Tensor) -> torch.Tensor:
        return -super()._compute(batch)


class Broken(Identity):
    """Returns no numbers."""

    def _compute(self, batch: torch.Tensor) -> torch.Tensor:
        return super()._compute(batch) * torch.nan


def opener(engines: list[Engine | UserError]):
    """Opens the first, then the second, and so on."""
    left = iter(engines)

    def open() -> Engines:
        engine = next(left)
        if isinstance(engine, UserError):
            raise engine
        return Engines(engine)

    return open


def reload(server: Running) -> tuple[int, str]:
    answer = server.post("/v2/repository/models/a/load")
    return answer.status, "" if answer.status == 200 else answer.error


def test_the_old_engine_answers_until_the_new_one_is_warm_and_what_it_has_to_the_end() -> None:
    old, new = Gated(), Negative()
    pixels = pixels_of()
    with running({"a": opener([old, new])}) as server, ThreadPoolExecutor(1) as pool:
        old.hold()
        first = pool.submit(server.post, "/translate", png(pixels))
        old.entered.acquire()
        assert reload(server) == (200, "")
        assert new.seen, "it was not warmed up"
        assert np.array_equal(server.post("/translate", png(pixels)).pixels, 255 - pixels)
        assert not old.closed and not first.done()
        old.release()
        assert np.array_equal(first.result().pixels, pixels)
    assert old.closed and new.closed


def test_no_request_is_lost_while_engines_change() -> None:
    engines: list[Engine | UserError] = [Negative() if i % 2 else Identity() for i in range(12)]
    with running({"a": opener(engines)}, Limits(max_queue=64)) as server, ThreadPoolExecutor(4) as pool:
        stop, wrong = threading.Event(), []

        def client(i: int) -> int:
            count, pixels = 0, pixels_of(i)
            while not stop.is_set():
                answer = server.post("/translate", png(pixels))
                if answer.status != 200 or not any(np.array_equal(answer.pixels, p) for p in (pixels, 255 - pixels)):
                    wrong.append(answer)
                count += 1
            return count

        clients = [pool.submit(client, i) for i in range(4)]
        assert [reload(server) for _ in range(11)] == [(200, "")] * 11
        stop.set()
        assert all(done.result() > 0 for done in clients) and not wrong
    assert all(isinstance(engine, Engine) and engine.closed for engine in engines)


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (UserError("a.onnx is damaged"), "a.onnx is damaged"),
        (Broken(), "identity returned pixels that are not finite: use fp32, or check its weights"),
    ],
    ids=["damaged", "not finite"],
)
def test_where_the_new_engine_does_not_work_the_old_one_stays(new: Engine | UserError, sentence: str, caplog) -> None:
    old = Identity()
    with running({"a": opener([old, new, UserError("still damaged")])}) as server:
        assert reload(server) == (422, sentence)
        server.call(server.service.reload())  # as SIGHUP does
        assert "a stays as it was: still damaged" in caplog.text
        assert np.array_equal(server.post("/translate", png(pixels_of())).pixels, pixels_of())
        assert not old.closed and (isinstance(new, UserError) or new.closed)


def test_an_engine_that_was_unloaded_answers_what_it_has() -> None:
    engine = Gated()
    with running({"a": engine, "b": Identity()}) as server, ThreadPoolExecutor(1) as pool:
        engine.hold()
        first = pool.submit(server.post, "/translate", png(pixels_of()))
        engine.entered.acquire()
        assert server.post("/v2/repository/models/a/unload").status == 200
        answer = server.post("/translate", png(pixels_of()))
        assert (answer.status, answer.error) == (503, "the engine a is not loaded: it was unloaded")
        assert server.post("/translate?engine=b", png(pixels_of())).status == 200
        engine.release()
        assert first.result().status == 200


def test_the_garbage_collector_passes_over_what_was_there_when_the_server_began_to_answer() -> None:
    """A walk through all of torch would stop every answer for some 0.2 s."""
    gc.unfreeze()
    with running({"a": Identity()}):
        assert gc.get_freeze_count() > len(sys.modules)
    assert gc.get_freeze_count() == 0
