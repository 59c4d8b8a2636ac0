"""What an engine is, and what it may be asked."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.device import free_memory
from cyclegan_fast.errors import UserError

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
Shape = tuple[int, int, int]  # of a batch: images, height, width
_USUAL: Shape = (1, 256, 256)


class Shapes(NamedTuple):
    """The batches that an engine serves: from the least to the most in each of images, height and width."""

    min: Shape
    opt: Shape
    """For which it is made fastest."""
    max: Shape


@dataclass(kw_only=True, eq=False)
class Engine(ABC):
    """A generator that is ready to run. Several threads may share it.

    It holds memory and maybe threads until it is closed: by ``with``, by `close`, or by the garbage collector.
    """

    name: str  # where it came from, for messages
    device: str  # where it runs: cpu, cuda or cuda:<index>
    precision: Precision  # what its convolutions compute in
    direction: str | None  # AtoB or BtoA; None if the file does not say
    in_format: PixelFormat  # of the images that it takes
    out_format: PixelFormat  # of the images that it makes
    size_divisor: int  # sides of a batch must be multiples of this, in pixels
    min_size: int  # the least side, in pixels
    shapes: Shapes | None = None  # that it serves; None: all that `size_divisor` and `min_size` allow
    closed: bool = field(default=False, init=False)
    _inside: dict[int, int] = field(default_factory=dict, init=False, repr=False)  # calls at work, by their threads
    _waiting: int = field(default=0, init=False, repr=False)  # calls that were submitted and are not done
    _released: bool = field(default=False, init=False, repr=False)
    _state: threading.Condition = field(default_factory=threading.Condition, init=False, repr=False)
    _pool: ThreadPoolExecutor | None = field(default=None, init=False, repr=False)

    @property
    def in_channels(self) -> int:
        """Channels of the images that it takes."""
        return self.in_format.channels

    @property
    def out_channels(self) -> int:
        """Channels of the images that it makes."""
        return self.out_format.channels

    def run(self, batch: Tensor) -> Tensor:
        """float32 [N, in_channels, H, W] in [-1, 1], on any device -> float32 [N, out_channels, H, W].

        A result of a GPU engine is on its device, unless it needs host memory for its input.

        Raises:
            UserError: The engine is closed, the shape does not fit, or the backend failed.
        """
        self.check_batch(batch)
        if not len(batch):
            return batch.new_empty((0, self.out_channels, *batch.shape[2:]), dtype=torch.float32)
        with self.at_work(), self.oom_as_user_error(f"a batch of shape {list(batch.shape)}"):
            return self._compute(batch)

    def run_any(self, batch: Tensor) -> Tensor:
        """The same, of a batch that may have fewer images than the engine serves: the last is repeated meanwhile."""
        count, least = len(batch), self.shapes.min[0] if self.shapes else 0
        if 0 < count < least:
            batch = torch.cat([batch, batch[-1:].expand(least - count, -1, -1, -1)])
        return self.run(batch)[:count]

    @abstractmethod
    def _compute(self, batch: Tensor) -> Tensor:
        """`run` on a batch that fits and is not empty."""

    def warmup(self, *shapes: Shape) -> Self:
        """Runs batches of zeros, so that the first images do not pay for what is set up once for each shape.

        Args:
            shapes: (images, height, width) of the batches to come; by default the one it is made fastest for, or one
                image of 256x256. Sides are rounded up to what the network takes.

        Returns:
            This engine.
        """
        for shape in shapes or (self.shapes.opt if self.shapes else _USUAL,):
            if not isinstance(shape, tuple) or len(shape) != 3:
                raise UserError(f"warmup takes (images, height, width), warmup((8, 256, 256)), say; got {shape!r}")
            batch = torch.zeros(shape[0], self.in_channels, *self.fitting_size(*shape[1:]))
            with self.at_work():
                self.run(batch)
                self._warm(batch)
        return self

    def fitting_size(self, height: int, width: int) -> tuple[int, int]:
        """The least (height, width) from these on that the network takes, in pixels."""
        least = self.shapes.min[1:] if self.shapes is not None else (self.min_size, self.min_size)
        sides = (max(side, a, self.min_size) for side, a in zip((height, width), least, strict=True))
        height, width = (-(-side // self.size_divisor) * self.size_divisor for side in sides)
        return height, width

    def check_batch(self, batch: Tensor) -> None:
        """Refuses a batch that the network cannot take.

        Raises:
            UserError: The engine is closed, or the shape does not fit.
        """
        self.check_open()
        rule = f"[N, {self.in_channels}, H, W] with sides from {self.min_size} in steps of {self.size_divisor} pixels"
        fits = batch.dim() == 4 and batch.shape[1] == self.in_channels
        if not fits or any(side < self.min_size or side % self.size_divisor for side in batch.shape[2:]):
            raise UserError(f"{self.name} takes batches {rule}, got {list(batch.shape)}")
        if self.shapes is not None:
            sizes = (batch.shape[0], *batch.shape[2:])
            if not all(a <= s <= b for a, s, b in zip(self.shapes.min, sizes, self.shapes.max, strict=True)):
                raise UserError(
                    f"{self.name} was built for batches (images, height, width) from {self.shapes.min} to "
                    f"{self.shapes.max}, got {sizes}: build it again with --shapes that hold it"
                )

    def check_finite(self, result: Tensor) -> Tensor:
        """Returns a result of this engine, and refuses one that holds NaN or infinity.

        Raises:
            UserError: It does.
        """
        if not result.isfinite().all():
            raise UserError(f"{self.name} returned pixels that are not finite: use fp32, or look at its weights")
        return result

    def at_a_time(self, batch_size: int) -> int:
        """How many of so many images of one size it serves in one batch."""
        return batch_size if self.shapes is None else min(batch_size, self.shapes.max[0])

    @contextlib.contextmanager
    def oom_as_user_error(self, what: str) -> Iterator[None]:
        """Makes a sentence of it when a GPU's memory does not suffice for `what`.

        Raises:
            UserError: It does not.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            free = free_memory(torch.device(self.device)) / 2**30
            raise UserError(
                f"{self.name}: {what} needs more memory than {self.device} has ({free:.1f} GiB are free): take fewer "
                "images at a time (--batch-size), or cut them smaller (--statistics, --tile)"
            ) from error

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keeps the engine open for a call of several batches: closing it waits for the call.

        Raises:
            UserError: It is closed.
        """
        with self._state:
            self.check_open()
            self._enter()
        try:
            yield
        finally:
            self._leave()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Runs a call on one of this engine's own threads: while one prepares its images, another computes."""

        def accepted() -> Any:  # though the engine may be closing by now
            with self._state:
                self._enter()
            try:
                return call()
            finally:
                self._leave()

        def done(_: Future[Any]) -> None:
            with self._state:
                self._waiting -= 1
                self._state.notify_all()

        with self._state:
            self.check_open()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(2, thread_name_prefix="cyclegan_fast.infer")
            self._waiting += 1
            future = self._pool.submit(accepted)
        future.add_done_callback(done)
        return future

    def close(self) -> None:
        """Waits for what was submitted and what runs, and gives the memory back; nothing runs afterwards."""
        own = threading.get_ident()
        with self._state:
            if self.closed:
                self._state.wait_for(lambda: self._released or own in self._inside)
                return
            self.closed = True
            self._state.wait_for(lambda: not self._waiting and not self._inside.keys() - {own})
            if self._pool is not None:
                self._pool.shutdown(wait=False)  # its threads have nothing left to do; this may be one of them
            self._release()
            self._released = True
            self._state.notify_all()

    def check_open(self) -> None:
        """Refuses a new call of a closed engine; one that was begun before goes on.

        Raises:
            UserError: It is closed.
        """
        if self.closed and threading.get_ident() not in self._inside:
            raise UserError(f"{self.name} is closed: load it again")

    def _enter(self) -> None:
        own = threading.get_ident()
        self._inside[own] = self._inside.get(own, 0) + 1

    def _leave(self) -> None:
        own = threading.get_ident()
        with self._state:
            self._inside[own] -= 1
            if not self._inside[own]:
                del self._inside[own]
            self._state.notify_all()

    def _warm(self, batch: Tensor) -> None:  # noqa: B027 - most engines are warm once they ran
        """Sets up what later batches of this shape would have to wait for."""

    def _release(self) -> None:  # noqa: B027 - most engines have nothing but what the collector frees
        """Gives back what an engine holds; called once, when nothing runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
