"""A generator that is ready to run, whatever runs it."""

from __future__ import annotations

import contextlib
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.engine.checks import check_batch, check_result, oom_as_user_error
from cyclegan_fast.engine.info import EngineInfo, Precision
from cyclegan_fast.engine.lifecycle import Lifecycle
from cyclegan_fast.engine.shapes import Shape, ShapeLimits
from cyclegan_fast.engine.threads import torch_threads
from cyclegan_fast.errors import UserError

_DEFAULT_WARMUP: Shape = (1, 256, 256)


class Engine(ABC):
    """A generator that is ready to run. Several threads may share it.

    It holds memory and maybe threads until it is closed: by ``with``, by `close`, or by the garbage collector.
    A subclass, a backend, computes in `_compute`.

    Args:
        info: What is known of it.
    """

    forks_on_one_thread: ClassVar[bool] = False
    """Whether a forked child can run an engine of its parent that computes on one thread, the calling one."""

    def __init__(self, info: EngineInfo) -> None:
        self.info = info
        self._lifecycle = Lifecycle(info.name)
        self._load: Callable[[], Engine] | None = None
        _engines.add(self)

    @property
    def name(self) -> str:
        """Where it came from, for messages."""
        return self.info.name

    @property
    def device(self) -> str:
        """Where it runs: cpu, cuda or cuda:<index>."""
        return self.info.device

    @property
    def precision(self) -> Precision:
        """What its convolutions compute in."""
        return self.info.precision

    @property
    def direction(self) -> str | None:
        """AtoB or BtoA; None if unknown."""
        return self.info.direction

    @property
    def threads(self) -> int | None:
        """CPU threads that a call computes on; None on a GPU."""
        return self.info.threads

    @property
    def limits(self) -> ShapeLimits:
        """Shapes of the batches that it takes."""
        return self.info.limits

    @property
    def in_format(self) -> PixelFormat:
        """Pixel format of the input images."""
        return self.info.in_format

    @property
    def out_format(self) -> PixelFormat:
        """Pixel format of the output images."""
        return self.info.out_format

    @property
    def in_channels(self) -> int:
        """Channels of the input images."""
        return self.in_format.channels

    @property
    def out_channels(self) -> int:
        """Channels of the output images."""
        return self.out_format.channels

    @property
    def closed(self) -> bool:
        """Whether it takes no more calls."""
        return self._lifecycle.closed

    def run(self, batch: Tensor) -> Tensor:
        """float32 [N, in_channels, H, W] in [-1, 1], on any device -> float32 [N, out_channels, H', W'].

        H' and W' are H and W, or of a network that enlarges or reduces, a whole multiple or fraction of them. The
        result of a GPU engine is on its device, unless it needs host memory for its input.

        Raises:
            UserError: The engine is closed, the shape does not fit, or the backend failed.
        """
        self.check_open()
        check_batch(self.info, batch)
        if not len(batch):
            return batch.new_empty((0, self.out_channels, *batch.shape[2:]), dtype=torch.float32)
        with self.call(), oom_as_user_error(self.info, f"a batch of shape {list(batch.shape)}"):
            return check_result(self.info, batch, self._compute(batch))

    def run_any(self, batch: Tensor) -> Tensor:
        """`run`, also of fewer images than the smallest batch served: the last image fills it up."""
        count, smallest = len(batch), self.limits.min_batch
        if 0 < count < smallest:
            batch = torch.cat([batch, batch[-1:].expand(smallest - count, -1, -1, -1)])
        return self.run(batch)[:count]

    def warmup(self, *shapes: Shape) -> Self:
        """Runs batches of zeros, so that the first images do not pay for what is set up once for each shape.

        Args:
            shapes: (images, height, width) of the batches to come; by default the one it is optimised for, or one
                image of 256x256. Sides are rounded up to what the network takes.

        Returns:
            This engine.
        """
        served = self.limits.shapes
        for shape in shapes or (served.opt if served else _DEFAULT_WARMUP,):
            if not isinstance(shape, tuple) or len(shape) != 3:
                raise UserError(f"warmup takes (images, height, width), such as warmup((8, 256, 256)); got {shape!r}")
            batch = torch.zeros(shape[0], self.in_channels, *self.limits.fitting_size(*shape[1:]))
            with self.call():
                self.run(batch)
                self._warm(batch)
        return self

    def check_open(self) -> None:
        """Refuses a new call of a closed engine; one that was begun before goes on.

        Raises:
            UserError: It is closed.
        """
        self._lifecycle.check_open()

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """A block, of several batches, that keeps the engine open: closing it waits for the block's end.

        Within it torch computes on the engine's number of threads.

        Raises:
            UserError: It is closed.
        """
        with self._lifecycle.call(), torch_threads(self.threads):
            yield

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Runs a function on one of this engine's own threads; closing the engine waits for it.

        Raises:
            UserError: It is closed.
        """
        return self._lifecycle.submit(function)

    def close(self) -> None:
        """Waits for what was submitted and what runs, and gives the memory back; nothing runs afterwards."""
        self._lifecycle.close(self._release)

    def loaded_by(self, load: Callable[[], Engine]) -> Self:
        """Sets what loads this engine again, in another process that it is pickled for; returns this engine."""
        self._load = load
        return self

    def __reduce__(self) -> tuple[Callable[[], Engine], tuple[()]]:
        if self._load is None:
            raise UserError(
                f"{self.name} cannot be pickled, as no file holds it: export it, and pickle what load_engine returns"
            )
        return self._load, ()

    def __repr__(self) -> str:
        facts = [repr(self.name), self.direction or "direction unknown", self.device, self.precision]
        return f"{type(self).__name__}({', '.join(facts + ['closed'] * self.closed)})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _compute(self, batch: Tensor) -> Tensor:
        """`run` on a batch that fits and is not empty."""

    def _warm(self, batch: Tensor) -> None:  # noqa: B027 - most backends are warm once they ran
        """Sets up what later batches of this shape would have to wait for."""

    def _release(self) -> None:  # noqa: B027 - most backends have nothing but what the collector frees
        """Gives back what a backend holds; called once, when nothing runs."""


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_never_freed: list[Engine] = []


def _after_fork_in_child() -> None:
    """Renews the locks of the engines that work on, and makes the others refuse what would wait forever.

    None is freed, which may wait for threads of the parent: its memory is shared with the parent anyway.
    """
    for engine in _engines:
        if not engine.closed:
            works = engine.forks_on_one_thread and engine.threads == 1
            engine._lifecycle = Lifecycle(engine.name, inherited=True, refusal="" if works else _left_behind(engine))
            _never_freed.append(engine)


def _left_behind(engine: Engine) -> str:
    choices = ["start processes by spawn", "load it in this process"]
    choices += ["load it with threads=1 on the CPU"] * engine.forks_on_one_thread
    return (
        f"{engine.name} was loaded before this process was forked, and its threads are in the parent alone: "
        f"{', '.join(choices[:-1])}, or {choices[-1]}"
    )


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
