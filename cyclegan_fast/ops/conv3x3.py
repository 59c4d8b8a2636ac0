"""conv3x3: the 3x3 convolution of stride 1; on the CPU by Winograd's F(4x4, 3x3), a quarter of the multiplications."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.extension import build_info, extension_available, runs_reference

# CYCLEGAN_FAST_WINOGRAD=0 leaves every convolution to torch.
_enabled = build_info().get("isa", "plain") != "plain" and os.environ.get("CYCLEGAN_FAST_WINOGRAD") != "0"
_LEAST_CHANNELS = 16  # fewer do not fill the vectors


def conv3x3(x: Tensor, weight: Tensor, pad: int = 0) -> Tensor:
    """y = conv2d(x, weight, padding=pad) with 3x3 weights, stride 1 and no bias.

    On the CPU, channels_last tensors of 16 channels and more take Winograd's way (Lavin and Gray 2016): 36
    multiplications where the definition has 144, summed in float32 whatever the type of x. The result differs from the
    exact one by some 1.5e-6 of its size, twice what summing in float32 costs by itself. All others are torch's.

    Args:
        x: [N, C, H, W] in float32 or bfloat16; under autocast, float32 becomes the autocast type.
        weight: [K, C, 3, 3] in float32.
        pad: zeros on each side, 0 to 2.

    Returns:
        [N, K, H + 2 pad - 2, W + 2 pad - 2] in the type and layout of x.
    """
    if not _takes_winograd(x, weight):
        return F.conv2d(x, weight, padding=pad)
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    if torch.compiler.is_compiling():
        return torch.ops.cyclegan_fast.conv3x3(x, weight, pad, False)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Eager.apply(x, weight, pad)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.cyclegan_fast.conv3x3(x, weight, pad, False)


def _takes_winograd(x: Tensor, weight: Tensor) -> bool:
    return (
        _enabled
        and not x.is_cuda
        and weight.dtype == torch.float32
        and x.dtype in (torch.float32, torch.bfloat16)
        and min(weight.shape[:2]) >= _LEAST_CHANNELS
        and x.is_contiguous(memory_format=torch.channels_last)
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not runs_reference(x)
    )


class _Eager(torch.autograd.Function):
    """The eager path, with less overhead than the autograd kernel that torch.library makes of the same functions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, pad: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pad = pad
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.cyclegan_fast.conv3x3(x, weight, pad, False)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return (*_gradients(ctx, grad_y), None)


def _gradients(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Of x and weight."""
    x, weight = ctx.saved_tensors
    grad_y = grad_y.contiguous(memory_format=torch.channels_last)
    needs_x, needs_weight = ctx.needs_input_grad[:2]
    grad_x = torch.ops.cyclegan_fast.conv3x3(grad_y, weight, 2 - ctx.pad, True) if needs_x else None
    grad_weight = torch.ops.cyclegan_fast.conv3x3_weight_grad(x, grad_y, ctx.pad) if needs_weight else None
    return grad_x, grad_weight


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, bool], output: Tensor) -> None:
    x, weight, ctx.pad, flipped = inputs
    assert not flipped
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    return (*_gradients(ctx, grad_y), None, None)


def _empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


def _fake(x: Tensor, weight: Tensor, pad: int, flipped: bool) -> Tensor:
    n, _, h, w = x.shape
    return _empty(x, (n, weight.shape[1 if flipped else 0], h + 2 * pad - 2, w + 2 * pad - 2), x.dtype)


def _fake_weight_grad(x: Tensor, grad_y: Tensor, pad: int) -> Tensor:
    return _empty(x, (grad_y.shape[1], x.shape[1], 3, 3), torch.float32)


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise UserError("conv3x3: the kernel is differentiable once; call it inside ops.use_reference() for more")


if extension_available():
    torch.library.register_fake("cyclegan_fast::conv3x3", _fake)
    torch.library.register_fake("cyclegan_fast::conv3x3_weight_grad", _fake_weight_grad)
    torch.library.register_autograd("cyclegan_fast::conv3x3", _backward, setup_context=_setup_context)
    torch.library.register_autograd("cyclegan_fast::conv3x3_weight_grad", _refuse_second_derivative)
