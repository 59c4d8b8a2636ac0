"""Each operator beside torch's own ops, forward and backward together where there is a backward.

pytest benchmarks/bench_ops.py --benchmark-only --benchmark-group-by=group

Buffers take turns so that a call finds its inputs outside the cache, the results are compared before anything is timed,
and extra_info holds the bytes that the operator must move.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan_fast import ops

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
DTYPES = [torch.float32, torch.bfloat16] if DEVICE.type == "cpu" else [torch.bfloat16, torch.float16, torch.float32]
SHAPES = [(1, 256, 64, 64), (1, 64, 256, 256)]  # a residual block's plane, and the stem's, at 256 px
BUFFERS = 8 if DEVICE.type == "cuda" else 2
# |got - exact| / |exact| over all elements: a mask that rounding flips at a value near the mean counts for little.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 5e-3}


def ours(x: Tensor) -> Tensor:
    return ops.instance_norm_act(x, activation="relu", pad=1)


def aten(x: Tensor) -> Tensor:
    with ops.use_reference():
        return ops.instance_norm_act(x, activation="relu", pad=1)


@pytest.mark.parametrize("implementation", [ours, aten], ids=["ours", "aten"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_relu_pad(
    benchmark: Any, shape: tuple[int, ...], layout: str, dtype: torch.dtype, implementation: Callable[[Tensor], Tensor]
) -> None:
    def image(*size: int) -> Tensor:
        return torch.randn(size, device=DEVICE).to(dtype).to(memory_format=LAYOUTS[layout])

    n, c, h, w = shape
    inputs = [image(*shape).requires_grad_() for _ in range(BUFFERS)]
    gradients = [image(n, c, h + 2, w + 2) for _ in range(BUFFERS)]
    check(inputs[0], gradients[0])
    run = take_turns(implementation, inputs, gradients)
    elements, padded = n * c * h * w, n * c * (h + 2) * (w + 2)
    # forward: x twice (statistics, write), y; backward: x and grad_y twice, grad_x
    moved = (2 * elements + padded + 2 * elements + 2 * padded + elements) * inputs[0].element_size()
    measure(benchmark, run, f"instance_norm + relu + pad 1, {shape}, {layout}, {dtype}", moved)


def aten_cycle_loss(pairs: list[tuple[Tensor, Tensor]], weights: list[float]) -> Tensor:
    return torch.stack([w * torch.nn.functional.l1_loss(a, b) for w, (a, b) in zip(weights, pairs, strict=True)])


@pytest.mark.parametrize("implementation", [ops.cycle_loss, aten_cycle_loss], ids=["ours", "aten"])
@pytest.mark.parametrize("side", [256, 1024])
def test_cycle_loss(benchmark: Any, side: int, implementation: Callable[..., Tensor]) -> None:
    """The four cycle and identity losses of a step."""
    weights = [10.0, 10.0, 5.0, 5.0]

    def image() -> Tensor:
        return torch.rand(1, 3, side, side, device=DEVICE).to(memory_format=torch.channels_last)

    buffers = [[(image().requires_grad_(), image()) for _ in weights] for _ in range(BUFFERS)]
    exact = [w * (a.detach().double() - b.double()).abs().mean() for w, (a, b) in zip(weights, buffers[0], strict=True)]
    assert (implementation(buffers[0], weights) - torch.stack(exact)).abs().max() <= 1e-5
    turns = itertools.cycle(buffers)

    def run() -> None:
        pairs = next(turns)
        for a, _ in pairs:
            a.grad = None
        implementation(pairs, weights).sum().backward()

    moved = 4 * buffers[0][0][0].numel() * (2 * 4 + 1 + 1 + 4)  # a, b and a sign; the sign again and the gradient
    measure(benchmark, run, f"four l1 means, 3x{side}x{side}", moved)


class AtenPool:
    """The pool on torch's own ops, with decisions drawn by a generator on the device."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.generator = images, torch.Generator(DEVICE).manual_seed(0)
        self.count = torch.full((), len(images), dtype=torch.int64, device=DEVICE)

    def exchange(self, fakes: Tensor) -> Tensor:
        draws, returned = torch.rand(len(fakes), 2, generator=self.generator, device=DEVICE), []
        for fake, (coin, where) in zip(fakes.split(1), draws, strict=True):
            healthy, full = fake.isfinite().all(), self.count >= len(self.images)
            swap = full & (coin < 0.5) & healthy
            slot = torch.where(full, (where * len(self.images)).long(), self.count).reshape(1)
            stored = self.images.index_select(0, slot)
            returned.append(torch.where(swap, stored, fake))
            self.images.index_copy_(0, slot, torch.where(swap | (~full & healthy), fake, stored))
            self.count.add_(healthy).clamp_(max=len(self.images))
        return torch.cat(returned)


class OurPool:
    """The same on our operator."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.count = torch.full((), len(images), dtype=torch.int64, device=DEVICE)
        self.drawn = torch.zeros_like(self.count)

    def exchange(self, fakes: Tensor) -> Tensor:
        return ops.image_pool_exchange(self.images, self.count, self.drawn, fakes, seed=0)


@pytest.mark.parametrize("implementation", [OurPool, AtenPool], ids=["ours", "aten"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 8])
def test_image_pool(benchmark: Any, batch: int, layout: str, implementation: type[OurPool] | type[AtenPool]) -> None:
    def images(count: int) -> Tensor:
        return torch.rand(count, 3, 256, 256, device=DEVICE).to(memory_format=LAYOUTS[layout])

    pool, batches = implementation(images(50)), [images(batch) for _ in range(BUFFERS)]
    for fakes in batches:  # what comes back is the image itself, or one that was stored or came before it
        stored = pool.images.clone()
        for fake, back in zip(fakes, pool.exchange(fakes), strict=True):
            assert back.equal(fake) or any(back.equal(image) for image in [*stored, *fakes])
    turns = itertools.cycle(batches)
    # Each image is read twice and one is returned; for every second one a slot is read and written as well.
    moved = batches[0].numel() * 4 * 4
    measure(benchmark, lambda: pool.exchange(next(turns)), f"image pool, {batch}x3x256x256, {layout}", moved)


def plain_to_uint8(images: Tensor) -> Tensor:
    levels = (images.tanh().float() + 1.0) * 127.5
    return levels.round().clamp(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize(
    "implementation", [functools.partial(ops.to_uint8, tanh=True), plain_to_uint8], ids=["ours", "aten"]
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 8])
def test_tanh_to_uint8(benchmark: Any, batch: int, layout: str, implementation: Callable[[Tensor], Tensor]) -> None:
    def image() -> Tensor:
        return torch.randn(batch, 3, 256, 256, device=DEVICE).to(memory_format=LAYOUTS[layout])

    inputs = [image() for _ in range(BUFFERS)]
    wrong = implementation(inputs[0]).int() - plain_to_uint8(inputs[0].double()).int()
    assert wrong.abs().max() <= 1 and wrong.ne(0).float().mean() <= 1e-4  # rounding decides at a tie
    turns = itertools.cycle(inputs)
    moved = inputs[0].numel() * (4 + 1)
    measure(benchmark, lambda: implementation(next(turns)), f"tanh to uint8, {batch}x3x256x256, {layout}", moved)


def plain_from_uint8(pixels: Tensor, *, channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout).div_(127.5).sub_(1.0)


@pytest.mark.parametrize("implementation", [ops.from_uint8, plain_from_uint8], ids=["ours", "aten"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 8])
def test_from_uint8(benchmark: Any, batch: int, layout: str, implementation: Callable[..., Tensor]) -> None:
    inputs = [torch.randint(0, 256, (batch, 256, 256, 3), dtype=torch.uint8, device=DEVICE) for _ in range(BUFFERS)]
    run = functools.partial(implementation, channels_last=layout == "nhwc")
    exact = plain_from_uint8(inputs[0].cpu(), channels_last=False)
    assert (run(inputs[0]).cpu() - exact).abs().max() <= 1e-7
    turns = itertools.cycle(inputs)
    moved = inputs[0].numel() * (1 + 4)
    measure(benchmark, lambda: run(next(turns)), f"from uint8, {batch}x256x256x3, {layout}", moved)


def check(x: Tensor, gradient: Tensor) -> None:
    """Compares our value and gradient with float64; NaN fails."""
    exact = x.detach().double().contiguous().requires_grad_()
    expected = aten(exact)
    expected.backward(gradient.double().contiguous())
    y = ours(x)
    y.backward(gradient)
    assert x.grad is not None and exact.grad is not None
    tolerance = TOLERANCE[x.dtype]
    for got, want in ((y, expected), (x.grad, exact.grad)):
        assert (got.double() - want).norm() <= tolerance * want.norm()


def take_turns(
    function: Callable[[Tensor], Tensor], inputs: list[Tensor], gradients: list[Tensor]
) -> Callable[[], None]:
    turns = itertools.cycle(zip(inputs, gradients, strict=True))

    def run() -> None:
        x, gradient = next(turns)
        x.grad = None
        function(x).backward(gradient)

    return run


def measure(benchmark: Any, run: Callable[[], object], group: str, bytes_moved: int) -> None:
    def one() -> None:
        run()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.group = group
    benchmark.pedantic(one, rounds=20, warmup_rounds=3)
    benchmark.extra_info |= {"bytes": bytes_moved, "gb_per_s": bytes_moved / benchmark.stats["median"] / 1e9}
