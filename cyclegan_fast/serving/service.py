"""One server's state, and how a request is answered: admitted, within a time, as long as its client is there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError, did_you_mean
from cyclegan_fast.images.metadata import MetadataRules
from cyclegan_fast.serving.faults import RequestError, shutting_down
from cyclegan_fast.serving.limits import Limits
from cyclegan_fast.serving.metrics import Metrics
from cyclegan_fast.serving.models import Model

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_LARGE = 2**14  # pixels, from which on an image is worth a thread


class Service:
    """The engines of a server, its limits, threads and metrics.

    Args:
        models: By name; the first is the one that /translate takes where none is named.
        limits: Of requests.
        metrics: What Prometheus reads.
        rules: What results keep of the metadata of uploaded images.
        model_control: Whether requests may load and unload engines.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        limits: Limits,
        metrics: Metrics,
        *,
        rules: MetadataRules | None = None,
        model_control: bool = True,
    ) -> None:
        self.models, self.limits, self.metrics = models, limits, metrics
        self.rules = rules or MetadataRules("technical")
        self.model_control = model_control
        self.draining = False
        self.requests = 0  # that are being answered
        self._idle, self._abandoned = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._held = 0  # bytes of bodies and decoded images
        self._files = ThreadPoolExecutor(min(4, usable_cores()), thread_name_prefix="cyclegan_fast.serve.files")
        self._measures = ThreadPoolExecutor(1, thread_name_prefix="cyclegan_fast.serve.faithfulness")
        metrics.watch(models)

    @property
    def ready(self) -> bool:
        """Whether it answers requests: all engines are loaded, and it does not shut down."""
        return not self.draining and all(model.loaded is not None for model in self.models.values())

    def model(self, name: str | None) -> Model:
        """The model of a name; the first where none is given.

        Raises:
            RequestError: There is none.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            shown = name if len(name) <= 64 else f"{name[:61]}..."
            raise RequestError(404, f"there is no engine {shown!r}{did_you_mean(shown, self.models)}")
        return self.models[name]

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """A block that answers a request: a shutdown waits for it.

        Raises:
            RequestError: The server shuts down.
        """
        if self.draining:
            raise shutting_down()
        self.requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.requests -= 1
            if not self.requests:
                self._idle.set()

    @contextlib.contextmanager
    def memory(self, size: int, *, own: int = 0) -> Iterator[None]:
        """A block that holds so many bytes of a request.

        Args:
            size: The bytes.
            own: What the request holds already by such a block.

        Raises:
            RequestError: Others hold too many, or the request alone would.
        """
        if own and own + size > self.limits.max_memory:
            raise RequestError(413, "the image takes more memory than this server has for all: send a smaller one")
        if self._held and self._held + size > self.limits.max_memory:
            raise RequestError(
                429, "the images of other requests fill the memory of this server: try again", retry_after=1
            )
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    def body_size(self, request: Request) -> int:
        """Bytes that the body of a request may have."""
        declared = request.headers.get("content-length", "")
        return int(declared) if declared.isdecimal() else self.limits.max_body

    async def in_thread(self, function: Callable[..., Result], *arguments: Any, pixels: int = _LARGE) -> Result:
        """Runs what reads or writes images on one of a few threads, unless they are smaller than what that costs."""
        if pixels < _LARGE:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._files, function, *arguments)

    async def in_measuring_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Runs what waits for engines itself, on a thread of its own, so that no image has to wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._measures, function, *arguments)

    async def answer(self, request: Request, work: Coroutine[Any, Any, Result]) -> Result:
        """Does the work of a request whose body was read, unless it takes too long, or its client goes away.

        Raises:
            RequestError: It does.
        """
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
        abandoned = asyncio.ensure_future(self._abandoned.wait())
        waits: set[asyncio.Future[Any]] = {task, gone, abandoned}
        try:
            await asyncio.wait(waits, timeout=self.limits.timeout, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return _result(task)
            if gone.done():
                raise RequestError(499, "the client closed the connection")
            if abandoned.done():
                raise shutting_down()
            message = f"no answer within {self.limits.timeout:g} s: send a smaller image, or try again"
            raise RequestError(504, message, retry_after=1)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def load(self) -> None:
        """Loads all engines.

        Raises:
            UserError: One cannot be loaded.
        """
        for model in self.models.values():
            await model.load()

    async def reload(self) -> None:
        """Loads all engines again; one that cannot be loaded stays what it is, with a warning."""
        for model in self.models.values():
            try:
                await model.load()
                log.info("%s is loaded again", model.name)
            except UserError as error:
                log.warning("%s stays as it was: %s", model.name, error)

    async def drain(self, hurry: asyncio.Event) -> bool:
        """Takes no more requests, and waits for those that it has, for a time or until `hurry` is set.

        Returns:
            Whether all were answered.
        """
        self.draining = True
        waits = [asyncio.ensure_future(event.wait()) for event in (self._idle, hurry)]
        await asyncio.wait(waits, timeout=self.limits.drain_timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not self.requests:
            return True
        log.warning("%d requests are refused before they are answered", self.requests)
        self._abandoned.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._idle.wait()
        return False

    async def close(self) -> None:
        """Closes the engines and threads."""
        self._files.shutdown(wait=False, cancel_futures=True)
        self._measures.shutdown(wait=False, cancel_futures=True)
        for model in self.models.values():
            await model.close()


def _result(task: asyncio.Task[Result]) -> Result:
    """What the work gave; what nobody expected becomes a fault, and goes to the log.

    Raises:
        RequestError: The work failed.
        UserError: The image cannot be used.
    """
    try:
        return task.result()
    except (RequestError, UserError):
        raise
    except Exception as error:
        log.error("a request failed", exc_info=error)
        raise RequestError(500, "the server failed, and its log says how") from error


async def _disconnected(request: Request) -> None:
    """Waits until the client of a request has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
