"""How long the launches of a step would take on an H200: a prediction, by a rough model, until a card has measured it.

A convolution is a matrix product cut into tiles, in waves over the multiprocessors; everything else reads its inputs
and writes its outputs at copy bandwidth. Each launch has a gap before it, as inside a CUDA graph. The two cycles share
the device: while both have a launch in flight, each gets the part of the multiprocessors that it can fill.

What the numbers below rest on: the arithmetic and the copies that an H200 was measured to do. The efficiency of a tile
and the gap are estimates; docs/results/launches.md stands beside the first measurement to say where they are wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any

from torch import Tensor

from benchmarks import narrow_time

JOINT = "of step, bf16: weight gradients that both passes of a generator share"  # a row of docs/results/launches.md

MULTIPROCESSORS = 132
PEAK = {2: 790e12, 4: 395e12}  # FLOP/s of dense products of elements of 2 bytes, and of 4 as TF32
COPY = 4.0e12  # bytes/s, read and written, from and to the memory
L2_COPY = 5.5e12  # where everything fits into
L2_BYTES = 40e6
EFFICIENCY = 0.75  # of the largest tile; 0.8 of it for weight gradients
TILES = {  # rows and columns of a product -> their part of that efficiency
    **{(256, 128): 1.0, (128, 256): 1.0, (128, 128): 0.95, (64, 256): 0.9},
    **{(128, 64): 0.8, (64, 128): 0.8, (64, 64): 0.6},
}
GAP = 1.0  # microseconds between two launches of a graph
SMALLEST = 1.6  # microseconds of a kernel that moves next to nothing
START = 1.2  # microseconds before the first byte comes
PIPELINE = 2.5  # microseconds to fill and drain a product's pipeline


@dataclass(frozen=True)
class Launch:
    """One kernel: its kind, the microseconds that it takes alone, and the part of the device that it fills."""

    kind: str
    micros: float
    filled: float


def launches_of(
    name: str, kinds: dict[str, int], inputs: list[Tensor], outputs: list[Tensor], arguments: tuple[Any, ...]
) -> list[Launch]:
    """The launches that an operator stands for.

    Args:
        name: The operator's, without its namespace.
        kinds: How many kernels of each kind it launches.
        inputs: Its tensors.
        outputs: Its results.
        arguments: All of its arguments, in order.
    """
    moved = sum(map(_bytes, inputs)) + sum(map(_bytes, outputs or inputs))  # in place: read, and written
    found = _convolutions(name, inputs, outputs, arguments)
    for kind, number in kinds.items():
        if kind == "convolution":
            continue
        if kind == "norm" and number > 1:  # statistics, maybe their merge in a launch of its own, the result
            found.append(_memory(kind, sum(map(_bytes, inputs))))
            found += [Launch(kind, 3.5, 0.05)] * (number - 2) + [_memory(kind, moved)]
        else:
            found += [_memory(kind, moved / number)] * number
    return found


def _convolutions(name: str, inputs: list[Tensor], outputs: list[Tensor], arguments: tuple[Any, ...]) -> list[Launch]:
    """Those of a convolution, or of its gradients."""
    if name == "convolution":
        (x, weight, *_), y, transposed = inputs, outputs[0], arguments[6]
        large, small = (y, x) if transposed else (x, y)
        return [_input_gradient(large, small, weight) if transposed else _forward(large, small, weight)]
    if name.startswith("conv2d"):
        return _narrow(name, inputs, outputs, arguments)
    if name != "convolution_backward":
        return []
    (grad_y, x, weight, *_), transposed, (needs_x, needs_weight, _) = inputs, arguments[7], arguments[10]
    large, small = (grad_y, x) if transposed else (x, grad_y)
    gradient = _forward if transposed else _input_gradient
    return [gradient(large, small, weight)] * needs_x + [_weight_gradient(large, small, weight)] * needs_weight


def _narrow(name: str, inputs: list[Tensor], outputs: list[Tensor], arguments: tuple[Any, ...]) -> list[Launch]:
    """Those of our convolutions on CUDA, all of them narrow."""
    if name == "conv2d":
        (x, *_), y, shape, stride = inputs, outputs[0], inputs[1].shape, arguments[3]
    elif name == "conv2d_input_grad":
        (y, *_), x, shape, stride = inputs, outputs[0], inputs[1].shape, arguments[4]
    else:
        (x, y, *_), shape, stride = inputs, outputs[0].shape, arguments[4]
    sizes = narrow_time.sizes_of(x, y, tuple(shape), stride)
    widens = (x.shape[1] < y.shape[1]) == (name == "conv2d")
    if name == "conv2d_weight_grad":
        micros, filled = narrow_time.weight_gradient(sizes)
        merge = [Launch("convolution", narrow_time.MERGE, 0.5)]
    else:
        (micros, filled), merge = narrow_time.to_wide(sizes) if widens else narrow_time.to_narrow(sizes), []
    memory = _memory("convolution", sum(map(_bytes, (*inputs, *outputs))))
    return [Launch("convolution", max(micros, memory.micros), filled), *merge]


def _forward(large: Tensor, small: Tensor, weight: Tensor) -> Launch:
    """From the larger image [N, C, H, W] to the smaller [N, K, OH, OW] by a weight [K, C, R, S]."""
    k, c, r, s = weight.shape
    return _product(_pixels(small), max(8, k), max(8, c) * r * s, (large, small, weight))


def _input_gradient(large: Tensor, small: Tensor, weight: Tensor) -> Launch:
    """Back; with a stride each of its pixels gets a part of the kernel alone."""
    k, c, r, s = weight.shape
    share = min(1.0, _pixels(small) / _pixels(large))
    return _product(_pixels(large), max(8, c), max(8, k) * r * s * share, (large, small, weight))


def _weight_gradient(large: Tensor, small: Tensor, weight: Tensor) -> Launch:
    """A sum over all pixels, which may be split."""
    k, c, r, s = weight.shape
    return _product(k, max(8, c) * r * s, _pixels(small), (large, small, weight), split=True)


def _product(m: int, n: int, k: float, tensors: tuple[Tensor, ...], *, split: bool = False) -> Launch:
    """The fastest tiling of a product [m, k] x [k, n] of what `tensors` hold."""
    peak = PEAK[tensors[0].element_size()] / MULTIPROCESSORS * EFFICIENCY * (0.8 if split else 1.0)
    memory = _memory("convolution", sum(map(_bytes, tensors)))
    best = Launch("convolution", float("inf"), 1.0)
    for (tile_m, tile_n), efficiency in TILES.items():
        for parts in (1, 2, 4, 8, 16, 32) if split else (1,):
            if parts > 1 and k / parts < 256:
                continue
            blocks = ceil(m / tile_m) * ceil(n / tile_n) * parts
            each = 2 * tile_m * tile_n * (k / parts) / (peak * efficiency) * 1e6
            merge = 1.5 + 4 * tile_m * tile_n * blocks / L2_COPY * 1e6 if parts > 1 else 0.0
            micros = PIPELINE + ceil(blocks / MULTIPROCESSORS) * each + merge
            if micros < best.micros:
                best = Launch("convolution", micros, min(1.0, blocks / MULTIPROCESSORS))
    return Launch("convolution", max(best.micros, memory.micros), best.filled)


def _memory(kind: str, moved: float) -> Launch:
    """A kernel that moves so many bytes, read and written together."""
    micros = max(SMALLEST, START + moved / (COPY if moved > L2_BYTES else L2_COPY) * 1e6)
    return Launch(kind, micros, min(0.6, max(0.1, moved / 8e6)))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _pixels(images: Tensor) -> int:
    return images.shape[0] * images.shape[2] * images.shape[3]


def one_after_the_other(launches: Iterable[Launch]) -> float:
    """Microseconds of launches of one stream."""
    return sum(launch.micros + GAP for launch in launches)


def side_by_side(first: list[Launch], second: list[Launch]) -> float:
    """Microseconds of two streams that share the device."""
    queues = [
        [(one.micros + GAP, one.filled * one.micros / (one.micros + GAP)) for one in lane] for lane in (first, second)
    ]
    left = [0.0, 0.0]
    elapsed = 0.0
    while any(queues):
        busy = [i for i in (0, 1) if queues[i]]
        for i in busy:
            left[i] = left[i] or queues[i][0][0]
        slower = max(1.0, sum(queues[i][0][1] for i in busy))
        passed = min(left[i] for i in busy)
        elapsed += passed * slower
        for i in busy:
            left[i] -= passed
            if left[i] < 1e-9:
                left[i] = 0.0
                queues[i].pop(0)
    return elapsed
