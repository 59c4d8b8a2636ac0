"""Passes of one network side by side in memory, so that each weight's gradient is computed once for all of them.

The gradient of a convolution's weight is a sum over the images of its batch. Where a network runs several times in one
step, the images of all passes make one batch as soon as the convolutions' inputs, and the gradients of their outputs,
lie in one tensor. Both are written by `instance_norm_act`: its output, and its gradient. So the norms of a pass write
into parts of larger tensors, the convolutions between them leave their weights' gradients out, and at the end one
larger convolution gives each of them: fewer launches, and more work for each.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cyclegan_fast.ops.layout import memory_format_of


class Geometry(NamedTuple):
    """What a convolution has besides its tensors."""

    stride: int
    pad: int
    transposed: bool = False
    output_pad: int = 0

    def arguments(self) -> tuple[Any, ...]:
        """As torch.ops.aten.convolution takes them: stride, padding, dilation, transposed, output_padding, groups."""
        return [self.stride] * 2, [self.pad] * 2, [1, 1], self.transposed, [self.output_pad] * 2, 1


class Slot(NamedTuple):
    """Where one norm of one pass writes: a part of the joint tensors."""

    y: Tensor  # [N, C, H + 2 pad, W + 2 pad]
    grad_x: Tensor  # [N, C, H, W]


class ImageSpec(NamedTuple):
    """Shape, type, device and layout of images, however many."""

    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device
    memory_format: torch.memory_format

    def empty(self, number: int) -> Tensor:
        """Makes an uninitialised tensor of so many."""
        shape = (number, *self.shape)
        return torch.empty(shape, dtype=self.dtype, device=self.device, memory_format=self.memory_format)


class JointPasses:
    """The passes of one network in one step.

    `learn` finds out once what the norms write. Within `allocated` there are joint tensors, made before streams fork
    that write into parts of them.
    """

    def __init__(self) -> None:
        self._norms: list[tuple[ImageSpec, ImageSpec]] = []  # y and grad_x of each, in the order of the calls
        self._joint: list[Slot] = []  # of all images
        self._storages: set[int] = set()
        self._used = 0  # images of the passes so far
        self._deferred: dict[Tensor, list[tuple[Tensor, Tensor, Geometry]]] = {}  # weight -> x, grad_y of each pass

    def learn(self, run: Callable[[], object]) -> None:
        """Finds out what the norms write, from a pass of any number of images; its results are dropped."""
        if not self._norms:
            with self.next_pass(), torch.enable_grad():
                run()

    @contextlib.contextmanager
    def allocated(self, number: int) -> Iterator[None]:
        """Holds the joint tensors for so many images, those of all passes together."""
        try:
            self._joint = [Slot(y.empty(number), grad_x.empty(number)) for y, grad_x in self._norms]
            self._storages, self._used = {_storage(tensor) for slot in self._joint for tensor in slot}, 0
            yield
        finally:
            self._joint, self._storages, self._deferred = [], set(), {}

    @contextlib.contextmanager
    def next_pass(self) -> Iterator[None]:
        """Runs a pass, on this thread: its images follow those of the passes before."""
        earlier, _thread.current = _thread.current, _Pass(self, self._used)
        try:
            yield
            self._used += _thread.current.images
        finally:
            _thread.current = earlier

    def slot(self, index: int, first: int, x: Tensor, pad: int) -> Slot | None:
        """Where the norm of that index writes its results for x [N, C, H, W]; None in the pass that is learned from."""
        if not self._joint:
            if index == len(self._norms):
                c, h, w = x.shape[1:]
                kind = x.dtype, x.device, memory_format_of(x)
                self._norms.append((ImageSpec((c, h + 2 * pad, w + 2 * pad), *kind), ImageSpec((c, h, w), *kind)))
            return None
        return Slot(*(tensor[first : first + len(x)] for tensor in self._joint[index]))

    def defer(self, weight: Tensor, x: Tensor, grad_y: Tensor, geometry: Geometry) -> bool:
        """Keeps what a weight's gradient is made of; False where a norm has not written both, for the caller to do."""
        if not {_storage(x), _storage(grad_y)} <= self._storages:
            return False
        self._deferred.setdefault(weight, []).append((x.detach(), grad_y, geometry))
        return True

    def weight_gradients(self, weights: Sequence[Tensor]) -> list[Tensor | None]:
        """Computes the gradients left out of these weights, each [K, C, R, S] as its weight; None for the others."""
        deferred = [self._deferred.pop(weight, None) for weight in weights]
        return [
            None if passes is None else _weight_gradient(weight, passes)
            for weight, passes in zip(weights, deferred, strict=True)
        ]


class _Pass:
    """One that runs: its first image among those of all passes, how many it has, and the norms that have run."""

    def __init__(self, passes: JointPasses, first: int) -> None:
        self.passes, self.first, self.images, self.norms = passes, first, 0, 0


class _Thread(threading.local):
    current: _Pass | None = None


_thread = _Thread()


def next_slot(x: Tensor, pad: int) -> Slot | None:
    """Where the norm that is called now writes its results; None for memory of their own."""
    if (current := _thread.current) is None:
        return None
    current.norms += 1
    current.images = len(x)
    return current.passes.slot(current.norms - 1, current.first, x, pad)


def convolution(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor | None:
    """Runs torch's convolution in a pass that leaves weight gradients out; None outside of one."""
    if (current := _thread.current) is None or not torch.is_grad_enabled() or x.dtype != weight.dtype:
        return None
    return _Convolution.apply(x, weight, geometry, current.passes)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Geometry, passes: JointPasses) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.geometry, ctx.passes = weight, geometry, passes  # the weight itself: it is a key
        return torch.ops.aten.convolution(x, weight, None, *geometry.arguments())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (x,), weight = ctx.saved_tensors, ctx.weight
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        if needs_weight and ctx.passes.defer(weight, x, grad_y, ctx.geometry):
            needs_weight = False
        return (*_gradients(grad_y, x, weight, ctx.geometry, needs_x, needs_weight), None, None)


def _gradients(
    grad_y: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needs_x: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    mask = [needs_x, needs_weight, False]
    if not any(mask):
        return None, None
    return torch.ops.aten.convolution_backward(grad_y, x, weight, None, *geometry.arguments(), mask)[:2]


def _weight_gradient(weight: Tensor, passes: list[tuple[Tensor, Tensor, Geometry]]) -> Tensor:
    x, grad_y = _joined([x for x, _, _ in passes]), _joined([grad_y for _, grad_y, _ in passes])
    geometry = passes[0][2]
    gradient = _gradients(grad_y, x, weight.detach(), geometry, False, True)[1]
    assert gradient is not None
    return gradient


def _joined(parts: list[Tensor]) -> Tensor:
    """The tensor whose neighbouring parts those are, each [N, C, H, W]."""
    parts = sorted(parts, key=Tensor.storage_offset)
    end = parts[0].storage_offset()
    for part in parts:
        if _storage(part) != _storage(parts[0]) or part.storage_offset() != end:
            raise RuntimeError("the passes of a network do not lie side by side")
        end += part.numel()
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    return parts[0].detach().as_strided(shape, parts[0].stride(), parts[0].storage_offset())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
