"""Cases of the two ends of a network: bytes to floats, the padded input, the last activation, and back to bytes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import DEVICE
from benchmarks.op_cases.case import (
    LAYOUTS,
    TOLERANCE,
    OpCase,
    describe,
    noise,
    per_set,
    sets_of,
    torch_compiled,
)
from cyclegan_fast import ops


def tanh_to_uint8(batch: int, layout: str) -> OpCase:
    shape = (batch, 3, 256, 256)
    moved = math.prod(shape) * (4 + 1)
    x = [noise(shape, layout, torch.float32) for _ in range(sets_of(moved))]

    def aten(x: Tensor) -> Tensor:
        levels = (x.tanh() + 1.0) * 127.5
        return levels.round().clamp(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    variants = {"ours": functools.partial(ops.to_uint8, tanh=True), "aten": aten, "compiled": torch_compiled(aten)}
    return OpCase(
        "tanh to bytes",
        describe(shape, layout, torch.float32),
        moved,
        {name: per_set(variant, x) for name, variant in variants.items()},
        lambda: [aten(x[0].double()).double()],
        1e-3,  # rounding decides at a tie
    )


def from_uint8(batch: int, layout: str) -> OpCase:
    """Crops of 256 from images of 286, every second one mirrored."""
    moved = batch * 3 * 256 * 256 * (1 + 4)
    pixels = [
        torch.randint(0, 256, (batch, 286, 286, 3), dtype=torch.uint8, device=DEVICE) for _ in range(sets_of(moved))
    ]
    placement = torch.tensor([(i % 31, 7 * i % 31, i % 2) for i in range(batch)], dtype=torch.int32)

    def aten(pixels: Tensor) -> Tensor:
        crops = []
        for image, (top, left, mirrored) in zip(pixels, placement.tolist(), strict=True):
            crop = image[top : top + 256, left : left + 256].permute(2, 0, 1)
            crops.append(crop.flip(2) if mirrored else crop)
        return torch.stack(crops).to(torch.float32, memory_format=LAYOUTS[layout]).div_(127.5).sub_(1.0)

    on_device = placement.to(DEVICE)
    ours = functools.partial(ops.from_uint8, crop=(256, 256), placement=on_device, channels_last=layout == "nhwc")
    return OpCase(
        "crop, mirror and bytes to floats",
        f"{batch}x3x256x256 {layout} float32",
        moved,
        {"ours": per_set(ours, pixels), "aten": per_set(aten, pixels)},
        lambda: [aten(pixels[0]).double()],
    )


def padded_input(batch: int, layout: str) -> OpCase:
    """What the stem reads of a batch of each domain in bfloat16, and the gradient of one of them."""
    shape = (batch, 3, 256, 256)
    pixels, padded = math.prod(shape), batch * 3 * 262 * 262
    moved = 2 * (4 * pixels + 2 * padded) + 2 * padded + 4 * pixels
    sets = range(sets_of(moved))
    a = [noise(shape, layout, torch.float32).requires_grad_() for _ in sets]
    b = [noise(shape, layout, torch.float32) for _ in sets]
    gradients = [noise((2 * batch, 3, 262, 262), layout, torch.bfloat16) for _ in sets]

    def aten(a: Tensor, b: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return F.pad(torch.cat([a, b]), (3, 3, 3, 3), mode="reflect").to(dtype)

    def ours(a: Tensor, b: Tensor) -> Tensor:
        return ops.reflect_pad([a, b], 3, dtype=torch.bfloat16)

    def with_gradient(pad: Callable[..., Tensor], a: Tensor, b: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        y = pad(a, b)
        return y, torch.autograd.grad(y, a, gradient)[0]

    def exact() -> list[Tensor]:
        wide = [t.detach().double().contiguous() for t in (a[0], b[0], gradients[0])]
        wide[0].requires_grad_()
        pad = functools.partial(aten, dtype=torch.float64)
        return [t.detach() for t in with_gradient(pad, *wide)]

    variants = {"ours": ours, "aten": aten, "compiled": torch_compiled(aten)}
    return OpCase(
        "two batches padded and rounded, forward and backward",
        f"2 x {describe(shape, layout, torch.bfloat16)}",
        moved,
        {name: per_set(functools.partial(with_gradient, pad), a, b, gradients) for name, pad in variants.items()},
        exact,
        TOLERANCE[torch.bfloat16],
    )


def network_end(batch: int, layout: str) -> OpCase:
    """What follows a generator's last convolution in bfloat16, of two batches at once, and all gradients."""
    shape = (2 * batch, 3, 256, 256)
    moved = math.prod(shape) * ((2 + 4) + (4 + 4 + 2))
    sets = range(sets_of(moved))
    x = [noise(shape, layout, torch.bfloat16).requires_grad_() for _ in sets]
    biases = [torch.randn(3, device=DEVICE).requires_grad_() for _ in sets]
    gradients = [[noise((batch, *shape[1:]), layout, torch.float32) for _ in "ab"] for _ in sets]

    def aten(x: Tensor, bias: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        return torch.tanh(x + bias.to(x.dtype)[:, None, None]).to(dtype).chunk(2)

    def ours(x: Tensor, bias: Tensor) -> list[Tensor]:
        return ops.bias_act(x, bias, activation="tanh", dtype=torch.float32, batches=[batch, batch])

    def with_gradient(end: Callable[..., Any], x: Tensor, bias: Tensor, gradients: list[Tensor]) -> tuple[Tensor, ...]:
        y = end(x, bias)
        return *y, *torch.autograd.grad(y, (x, bias), gradients)

    def exact() -> list[Tensor]:
        leaves = [t.detach().double().contiguous().requires_grad_() for t in (x[0], biases[0])]
        wide = [gradient.double().contiguous() for gradient in gradients[0]]
        end = functools.partial(aten, dtype=torch.float64)
        return [t.detach() for t in with_gradient(end, *leaves, wide)]

    ends = {"ours": ours, "aten": aten, "compiled": torch_compiled(aten)}
    return OpCase(
        "bias, tanh and float32, forward and backward",
        describe(shape, layout, torch.bfloat16),
        moved,
        {name: per_set(functools.partial(with_gradient, end), x, biases, gradients) for name, end in ends.items()},
        exact,
        TOLERANCE[torch.bfloat16],
    )
