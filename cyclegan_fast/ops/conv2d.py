"""conv2d and conv_transpose2d: torch's own, but on the CPU in channels_last by kernels of our own."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.extension import build_info, extension_available, runs_reference

# CYCLEGAN_FAST_CONV chooses: "winograd" (the default), "direct" (without the rounding of Winograd's way), or "torch".
_way = os.environ.get("CYCLEGAN_FAST_CONV", "winograd")
if _way not in ("winograd", "direct", "torch"):
    raise UserError(f"CYCLEGAN_FAST_CONV must be winograd, direct or torch, got {_way!r}")
_isa = build_info().get("isa", "plain")


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, pad: int = 0) -> Tensor:
    """A convolution: each output is a sum over a window of pixels.

    On the CPU and in channels_last our kernels run it, with sums in float32 whatever the type of x. Windows of 3x3 with
    stride 1 and 16 channels or more go by Winograd's F(4x4, 3x3) (Lavin and Gray 2016), which needs a quarter of the
    multiplications; its result is some 1.5e-6 of its size from the exact one, where a plain float32 sum is 0.9e-6.
    Elsewhere, and with CYCLEGAN_FAST_CONV=torch, it is torch's convolution.

    Args:
        x: [N, C, H, W]; under autocast it is rounded to the autocast type first.
        weight: [K, C, R, S].
        bias: [K].
        stride: pixels between windows, in both directions.
        pad: zeros on each side.

    Returns:
        [N, K, (H + 2 pad - R) // stride + 1, (W + 2 pad - S) // stride + 1] in the type and layout of x.
    """
    x = _rounded(x)
    if not _is_ours(x, weight):
        return F.conv2d(x, weight, bias, stride, pad)
    arguments = (x, weight, bias, stride, pad, _way == "winograd")
    if torch.compiler.is_compiling():
        return torch.ops.cyclegan_fast.conv2d(*arguments)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Conv2d.apply(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.cyclegan_fast.conv2d(*arguments)


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int = 1, pad: int = 0, output_pad: int = 0) -> Tensor:
    """A transposed convolution without bias: what `conv2d` gives as its input's gradient.

    Args:
        x: [N, K, H, W].
        weight: [K, C, R, S].
        stride: of the convolution whose gradient it is.
        pad: of that convolution.
        output_pad: rows and columns more at the far edges.

    Returns:
        [N, C, (H - 1) stride - 2 pad + R + output_pad, ...] in the type and layout of x.
    """
    x = _rounded(x)
    if not _is_ours(x, weight):
        return F.conv_transpose2d(x, weight, None, stride, pad, output_pad)
    h, w = ((x.shape[i] - 1) * stride - 2 * pad + weight.shape[i] + output_pad for i in (2, 3))
    arguments = (x, weight, h, w, stride, pad, _way == "winograd")
    if torch.compiler.is_compiling():
        return torch.ops.cyclegan_fast.conv2d_input_grad(*arguments)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _ConvTranspose2d.apply(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.cyclegan_fast.conv2d_input_grad(*arguments)


def _rounded(x: Tensor) -> Tensor:
    """x in the type that autocast wants of a convolution."""
    if x.is_cuda or not torch.is_autocast_enabled("cpu"):
        return x
    return x.to(torch.get_autocast_dtype("cpu"))


def _is_ours(x: Tensor, weight: Tensor) -> bool:
    """Whether our kernels run it. A CPU with bfloat16 multiplies it as fast in torch, but for what Winograd saves."""
    if x.is_cuda or _way == "torch" or _isa == "plain" or runs_reference(x):
        return False
    if x.dtype == torch.bfloat16:
        own = _isa != "avx512_bf16" or (_way == "winograd" and weight.shape[2:] == (3, 3) and weight.shape[1] >= 16)
    else:
        own = x.dtype == torch.float32
    return (
        own
        and weight.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
        and weight.is_contiguous(memory_format=torch.channels_last)
    )


def _gradients(
    x: Tensor, grad_y: Tensor, weight: Tensor, geometry: tuple[int, int, bool], needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Of x and of weight, for y = conv2d(x, weight)."""
    grad_y = grad_y.contiguous(memory_format=torch.channels_last)
    h, w = x.shape[2:]
    r, s = weight.shape[2:]
    ops = torch.ops.cyclegan_fast
    grad_x = ops.conv2d_input_grad(grad_y, weight, h, w, *geometry) if needs[0] else None
    return grad_x, ops.conv2d_weight_grad(x, grad_y, r, s, *geometry) if needs[1] else None


def _conv2d_backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    grad_x, grad_weight = _gradients(x, grad_y, weight, ctx.geometry, (needs_x, needs_weight))
    grad_bias = grad_y.sum((0, 2, 3), dtype=torch.float32) if needs_bias else None
    return grad_x, grad_weight, grad_bias, None, None, None


def _transpose_backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    """The transposed convolution's input is the other's dL/dy, its output the other's x."""
    x, weight = ctx.saved_tensors
    grad_y = grad_y.contiguous(memory_format=torch.channels_last)
    ops = torch.ops.cyclegan_fast
    grad_x = ops.conv2d(grad_y, weight, None, *ctx.geometry) if ctx.needs_input_grad[0] else None
    r, s = weight.shape[2:]
    grad_weight = ops.conv2d_weight_grad(grad_y, x, r, s, *ctx.geometry) if ctx.needs_input_grad[1] else None
    return grad_x, grad_weight, None, None, None, None, None


def _setup_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)


def _setup_transpose(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)


class _Conv2d(torch.autograd.Function):
    """The eager path, with less overhead than the autograd kernel that torch.library makes of the same functions."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _setup_conv2d(ctx, inputs, inputs[0])
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.cyclegan_fast.conv2d(*inputs)

    backward = staticmethod(_conv2d_backward)  # type: ignore[assignment]


class _ConvTranspose2d(torch.autograd.Function):
    """As `_Conv2d`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _setup_transpose(ctx, inputs, inputs[0])
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.cyclegan_fast.conv2d_input_grad(*inputs)

    backward = staticmethod(_transpose_backward)  # type: ignore[assignment]


def _empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last)


def _fake_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: int, winograd: bool) -> Tensor:
    h, w = ((x.shape[i] + 2 * pad - weight.shape[i]) // stride + 1 for i in (2, 3))
    return _empty(x, x.shape[0], weight.shape[0], h, w)


def _fake_input_grad(
    grad_y: Tensor, weight: Tensor, h: int, w: int, stride: int, pad: int, winograd: bool
) -> Tensor:
    return _empty(grad_y, grad_y.shape[0], weight.shape[1], h, w)


def _fake_weight_grad(x: Tensor, grad_y: Tensor, r: int, s: int, stride: int, pad: int, winograd: bool) -> Tensor:
    return _empty(x, grad_y.shape[1], x.shape[1], r, s, dtype=torch.float32)


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise UserError("conv2d: the kernel is differentiable once; call it inside ops.use_reference() for more")


if extension_available():
    torch.library.register_fake("cyclegan_fast::conv2d", _fake_conv2d)
    torch.library.register_fake("cyclegan_fast::conv2d_input_grad", _fake_input_grad)
    torch.library.register_fake("cyclegan_fast::conv2d_weight_grad", _fake_weight_grad)
    torch.library.register_autograd("cyclegan_fast::conv2d", _conv2d_backward, setup_context=_setup_conv2d)
    torch.library.register_autograd(
        "cyclegan_fast::conv2d_input_grad", _transpose_backward, setup_context=_setup_transpose
    )
    torch.library.register_autograd("cyclegan_fast::conv2d_weight_grad", _refuse_second_derivative)
