"""A server in a thread of this process, and plain requests to it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from cyclegan_fast.engine import Engine
from cyclegan_fast.serving.limits import Limits
from cyclegan_fast.serving.metrics import Metrics
from cyclegan_fast.serving.models import Engines, Model
from cyclegan_fast.serving.server import bind, serve, url_of
from cyclegan_fast.serving.service import Service
from tests.engine.identity import Identity

Open = Callable[[], Engines]


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence of a fault."""
        assert list(self.json) == ["error"]
        return self.json["error"]

    @property
    def pixels(self) -> np.ndarray:
        with Image.open(io.BytesIO(self.body)) as image:
            return np.array(image)


class Running:
    """A server that runs in a thread."""

    def __init__(self, service: Service, host: str = "127.0.0.1", local: bool = True) -> None:
        self.service = service
        self._listener = bind(host, 0)
        self.url = url_of(self._listener)
        self.loop = asyncio.new_event_loop()
        self._stop, self._hurry, self._started = asyncio.Event(), asyncio.Event(), threading.Event()
        self._local = local
        self.answered: bool | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(60)

    def stop(self) -> bool:
        """Drains it, as SIGTERM does; returns whether all was answered."""
        self.begin_to_stop()
        self._thread.join(60)
        assert not self._thread.is_alive() and self.answered is not None
        return self.answered

    def begin_to_stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)

    def hurry(self) -> None:
        """Ends it at once, as a second SIGTERM does."""
        self.loop.call_soon_threadsafe(self._hurry.set)

    def call(self, coroutine: Any) -> Any:
        """Runs a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("POST", path, body, headers)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        with self._listener:
            run = serve(
                self.service,
                self._listener,
                local=self._local,
                stop=self._stop,
                hurry=self._hurry,
                on_started=self._started.set,
            )
            self.answered = self.loop.run_until_complete(run)
        self.loop.close()


@contextlib.contextmanager
def running(
    engines: Mapping[str, Engine | Open], limits: Limits | None = None, *, local: bool = True, **options: Any
) -> Iterator[Running]:
    """A server of engines, or of what opens them, by name; it is drained at the end, and must answer all."""
    metrics, limits = Metrics(), limits or Limits()
    models = {
        name: Model(name, opener(engine) if isinstance(engine, Engine) else engine, limits, metrics.observer_of(name))
        for name, engine in engines.items()
    }
    server = Running(Service(models, limits, metrics, **options), local=local)
    server.start()
    try:
        yield server
    finally:
        if server.answered is None:
            assert server.stop(), "some requests were not answered"


def opener(engine: Engine) -> Open:
    return lambda: Engines(engine)


def pixels_of(seed: int = 0, width: int = 24, height: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Gated(Identity):
    """An identity that waits in each batch until the test lets it go on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.entered, self.gate = threading.Semaphore(0), threading.Event()
        self.closed_gate = False

    def hold(self) -> None:
        """From now on batches wait."""
        self.closed_gate = True

    def release(self) -> None:
        self.closed_gate = False
        self.gate.set()

    def _compute(self, batch: Any) -> Any:
        if self.closed_gate:
            self.entered.release()
            assert self.gate.wait(60)
        return super()._compute(batch)
