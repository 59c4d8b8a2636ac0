"""The engines of a server by name: loaded, warmed up, reloaded without a gap, unloaded when nobody uses them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cyclegan_fast.checkpoint import read_settings
from cyclegan_fast.checkpoint.folder import find_checkpoint, named_checkpoint
from cyclegan_fast.engine import Engine, load_engine
from cyclegan_fast.engine.export.triton_repository import model_name
from cyclegan_fast.engine.inference import translate_values
from cyclegan_fast.engine.translation.faithfulness import check_inverse
from cyclegan_fast.errors import UserError
from cyclegan_fast.metrics import Direction
from cyclegan_fast.models import MODELS
from cyclegan_fast.serving.batcher import Batcher, Observer
from cyclegan_fast.serving.faults import RequestError
from cyclegan_fast.serving.limits import Limits

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
VERSION = "1"
_DIRECTIONS: dict[str, Direction] = {"AtoB": "AtoB", "BtoA": "BtoA"}


class Source(NamedTuple):
    """What ``--engine [NAME=]PATH[:AtoB|:BtoA]`` names."""

    name: str
    path: Path
    direction: Direction | None


class Engines(NamedTuple):
    """A generator that is ready to run, and that of the other direction where there is one."""

    forward: Engine
    inverse: Engine | None = None


Open = Callable[[], Engines]


def read_source(word: str) -> Source:
    """Reads the value of ``--engine``.

    Raises:
        UserError: It names no engine.
    """
    given, separator, path = word.partition("=")
    name, path = (given, path) if separator else ("", word)
    path, _, end = path.rpartition(":") if path.endswith((":AtoB", ":BtoA")) else (path, "", "")
    if not path:
        raise UserError(f"--engine {word} names no file: give PATH, NAME=PATH, or NAME=PATH:BtoA")
    name = name if separator else model_name(Path(path))
    if not NAME.fullmatch(name):
        raise UserError(
            f"--engine {word}: {name!r} cannot be in a URL: give a name of letters, digits, dots and dashes"
        )
    return Source(name, Path(path), _DIRECTIONS.get(end))


def open_engines(source: Source, **options: Any) -> Engines:
    """Loads the engine of a source; of a run's folder or checkpoint the inverse, too, where its model has one.

    Args:
        source: Where it is.
        options: For `load_engine`.

    Raises:
        UserError: It cannot be loaded.
    """
    path = named_checkpoint(source.path)
    if not path.is_dir():
        return Engines(load_engine(path, direction=source.direction, **options))
    checkpoint = find_checkpoint(path)  # one for both, also while a training writes the next
    model = MODELS[read_settings(checkpoint).config.model.model]
    forward = load_engine(checkpoint, direction=source.direction, **options)
    if not model.reconstructs:
        return Engines(forward)
    try:
        back: Direction = "AtoB" if forward.direction == "BtoA" else "BtoA"
        inverse = load_engine(checkpoint, direction=back, **options)
        check_inverse(forward, inverse)
    except BaseException:
        forward.close()
        raise
    return Engines(forward, inverse)


class Loaded:
    """Engines in use: they are closed when the last request that has them is answered."""

    def __init__(self, engines: Engines, limits: Limits, observe: Observer) -> None:
        self.engine = engines.forward
        self.batcher = Batcher(engines.forward, limits, observe)
        self.inverse = None if engines.inverse is None else Batcher(engines.inverse, limits)
        self._engines = [engine for engine in engines if engine is not None]
        self.users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextlib.contextmanager
    def used(self, images: int) -> Iterator[None]:
        """A block that uses the engines for some images."""
        self.users += images
        self._unused.clear()
        try:
            yield
        finally:
            self.users -= images
            if not self.users:
                self._unused.set()

    async def close(self) -> None:
        """Waits until nobody uses the engines, and closes them."""
        await self._unused.wait()
        for engine in self._engines:
            await asyncio.to_thread(engine.close)


class Model:
    """One name of the server, and what is loaded for it.

    Args:
        name: In URLs and metrics.
        open: Loads its engines.
        limits: Of its queue.
        observe: Called with each batch.
    """

    def __init__(self, name: str, open: Open, limits: Limits, observe: Observer = lambda *_: None) -> None:
        self.name, self._open, self._limits = name, open, limits
        self._rate = _Rate()
        self._observe = observe
        self.loaded: Loaded | None = None
        self.reason = "it was not loaded yet"  # why there is none
        self._loading = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Loads the engines, again if there are some: those answer until the new ones are warm.

        Raises:
            UserError: They cannot be loaded; the old ones stay.
        """
        async with self._loading:
            engines = await asyncio.to_thread(self._open_warm)
            before, self.loaded = self.loaded, Loaded(engines, self._limits, self._observed)
            self._retire(before)

    async def unload(self) -> None:
        """Answers no further request, and closes the engines when those that were admitted are answered."""
        async with self._loading:
            before, self.loaded, self.reason = self.loaded, None, "it was unloaded"
            self._retire(before)

    async def close(self) -> None:
        """The same, and waits for it."""
        await self.unload()
        await asyncio.gather(*self._closing)

    @contextlib.contextmanager
    def admitted(self, images: int = 1) -> Iterator[Loaded]:
        """A block in which the engines answer a request.

        Raises:
            RequestError: There is no engine, or no place in its queue.
        """
        if self.loaded is None:
            raise RequestError(503, f"the engine {self.name} is not loaded: {self.reason}", retry_after=5)
        loaded = self.loaded
        self.check_place(loaded, images)
        with loaded.used(images):
            yield loaded

    def check_place(self, loaded: Loaded, images: int, *, admitted: int = 0) -> None:
        """Refuses images for which the queue has no place.

        Args:
            loaded: Whose queue it is.
            images: That are to be admitted.
            admitted: Images of the same request that are.

        Raises:
            RequestError: There is none now, or never.
        """
        limit, total = self._limits.max_queue, images + admitted
        if total > limit:
            raise RequestError(413, f"{total} images in one request, and the queue holds {limit}: send fewer at a time")
        if loaded.users + images > limit:
            message = f"{loaded.users} images wait for the engine {self.name}, and the queue holds {limit}: try again"
            raise RequestError(429, message, retry_after=self._rate.seconds_for(loaded.users))

    def _observed(self, images: int, seconds: float) -> None:
        self._rate.add(images, seconds)
        self._observe(images, seconds)

    def _open_warm(self) -> Engines:
        engines = self._open()
        try:
            for engine in engines:
                if engine is not None:
                    _warm(engine)
        except BaseException:
            for engine in engines:
                if engine is not None:
                    engine.close()
            raise
        return engines

    def _retire(self, loaded: Loaded | None) -> None:
        if loaded is not None:
            task = asyncio.get_running_loop().create_task(loaded.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _warm(engine: Engine) -> None:
    """Sets up what the first images would wait for, and translates one: it must give numbers.

    Raises:
        UserError: It does not.
    """
    engine.warmup()
    height, width = engine.limits.fitting_size(1, 1)
    generator = torch.Generator().manual_seed(0)
    translate_values(engine, [torch.rand(engine.in_channels, height, width, generator=generator) * 2 - 1])


class _Rate:
    """How long an image takes lately, for Retry-After."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def add(self, images: int, seconds: float) -> None:
        each = seconds / images
        self._seconds = each if not self._seconds else 0.8 * self._seconds + 0.2 * each

    def seconds_for(self, images: int) -> int:
        return min(60, max(1, math.ceil(images * self._seconds)))


def build_models(
    sources: Sequence[Source], limits: Limits, observer_of: Callable[[str], Observer], **options: Any
) -> dict[str, Model]:
    """The models of a server, not loaded yet.

    Raises:
        UserError: Two have one name.
    """
    models: dict[str, Model] = {}
    for source in sources:
        if source.name in models:
            raise UserError(f"two engines are named {source.name}: give names: --engine a={source.path}")
        open = functools.partial(open_engines, source, **options)
        models[source.name] = Model(source.name, open, limits, observer_of(source.name))
    return models
