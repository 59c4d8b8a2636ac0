"""conv2d and conv_transpose2d: torch's own, but in channels_last by kernels of our own on the CPU.

On CUDA, where the switch of narrow_conv.py is on, layers with few channels on one side run by kernels of our own, too.
"""

from __future__ import annotations

import os
import platform
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops import joint_passes
from cyclegan_fast.ops.extension import build_info, extension_available, runs_reference
from cyclegan_fast.ops.joint_passes import Geometry
from cyclegan_fast.ops.layout import any_requires_grad, autocast_dtype
from cyclegan_fast.ops.narrow_conv import runs_narrow

# CYCLEGAN_FAST_CONV: "winograd" (the default), "direct" (ours without Winograd's rounding) or "torch".
_algorithm = os.environ.get("CYCLEGAN_FAST_CONV", "winograd")
if _algorithm not in ("winograd", "direct", "torch"):
    raise UserError(f"CYCLEGAN_FAST_CONV must be winograd, direct or torch, got {_algorithm!r}")
_isa = build_info().get("isa", "plain")
_has_amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)()


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, pad: int = 0) -> Tensor:
    """A convolution: each output is a weighted sum over R x S pixels.

    On the CPU and in channels_last our kernels run it, with sums in float32 whatever the type of x. Kernels of 3x3 with
    stride 1 and 16 channels or more run by Winograd's F(4x4, 3x3) (Lavin and Gray 2016), which needs a quarter of the
    multiplications; its result is some 1.5e-6 of its size from the exact one, where a plain float32 sum is 0.9e-6.
    Elsewhere, in bfloat16 where the CPU multiplies that faster (by AMX, or for other kernels by AVX-512), and with
    CYCLEGAN_FAST_CONV=torch, it is torch's convolution.

    On CUDA it is torch's, too, but where CYCLEGAN_FAST_NARROW_CONV=on and the images are in 16 bits and channels_last:
    there our tensor-core kernels run layers with 1 to 8 channels on one side and 16 to 128 on the other, kernels of
    3x3 to 7x7, with sums in float32; weights may be float32 or have the type of the images.

    Args:
        x: [N, C, H, W]; under autocast it is rounded to the autocast type first.
        weight: [K, C, R, S].
        bias: [K].
        stride: pixels of x between neighbouring outputs, in both directions.
        pad: zeros on each side.

    Returns:
        [N, K, (H + 2 pad - R) // stride + 1, (W + 2 pad - S) // stride + 1] in the type and layout of x.
    """
    if x.is_cuda:
        dtype = autocast_dtype(x)
        if not runs_narrow(x, dtype, weight, stride, pad):
            return _by_torch(x, weight, bias, Geometry(stride, pad))
        y = _conv2d(Conv2dInputs(x.to(dtype), weight, None, stride, pad, False))
        return y if bias is None else y + bias.to(dtype).view(1, -1, 1, 1)
    x = _rounded(x)
    if not _is_ours(x, weight, bias):
        return _by_torch(x, weight, bias, Geometry(stride, pad))
    if bias is not None:
        bias = bias.contiguous()
    return _conv2d(Conv2dInputs(x, weight, bias, stride, pad, _algorithm == "winograd"))


def _conv2d(inputs: Conv2dInputs) -> Tensor:
    """Our kernels' result."""
    x, weight, bias, *_ = inputs
    if torch.compiler.is_compiling():
        return torch.ops.cyclegan_fast.conv2d(*inputs)
    if torch.is_grad_enabled() and any_requires_grad(x, weight, bias):
        return _Conv2d.apply(x, weight, bias, inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.cyclegan_fast.conv2d(*inputs)


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
        return _by_torch(x, weight, None, Geometry(stride, pad, True, output_pad))
    h, w = ((x.shape[i] - 1) * stride - 2 * pad + weight.shape[i] + output_pad for i in (2, 3))
    inputs = InputGradInputs(x, weight, h, w, stride, pad, _algorithm == "winograd")
    if torch.compiler.is_compiling():
        return torch.ops.cyclegan_fast.conv2d_input_grad(*inputs)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _ConvTranspose2d.apply(x, weight, inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.cyclegan_fast.conv2d_input_grad(*inputs)


def _by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """torch's result; in a joint pass the weight's gradient is computed at its end."""
    joint = joint_passes.convolution(x, weight, geometry) if bias is None else None
    if joint is not None:
        return joint
    stride, pad, transposed, output_pad = geometry
    if transposed:
        return F.conv_transpose2d(x, weight, bias, stride, pad, output_pad)
    return F.conv2d(x, weight, bias, stride, pad)


def bfloat16_is_slow(device: torch.device, *, channels_last: bool = True) -> bool:
    """Whether convolutions are slower in bfloat16 than in float32: where torch runs them on an x86 CPU without it."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile")):
        return False
    return not (channels_last and _algorithm != "torch" and _isa != "plain")


def _rounded(x: Tensor) -> Tensor:
    """x on the CPU in the type that autocast wants; elsewhere torch's own operators see to it."""
    return x.to(autocast_dtype(x)) if x.is_cpu else x


def _is_ours(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether our kernels for the CPU run it."""
    if not x.is_cpu or _algorithm == "torch" or _isa == "plain" or runs_reference(x):
        return False
    return (
        (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and _is_ours_in_bfloat16(weight)))
        and weight.dtype == torch.float32
        and (bias is None or bias.dtype == torch.float32)
        and x.is_contiguous(memory_format=torch.channels_last)
        and weight.is_contiguous(memory_format=torch.channels_last)
    )


def _is_ours_in_bfloat16(weight: Tensor) -> bool:
    """Whether our kernels, which multiply in float32, beat those of torch, which use what this CPU has for bfloat16.

    Tiles (AMX) multiply it some eight times as fast as float32: only a layer of one output, which leaves them empty, is
    as fast in ours. Without tiles dot products (AVX-512) are twice as fast, and Winograd saves more.
    """
    if _has_amx:
        return weight.shape[0] == 1
    if _isa == "avx512_bf16":
        return _algorithm == "winograd" and weight.shape[2:] == (3, 3) and weight.shape[1] >= 16
    return True


class Conv2dInputs(NamedTuple):
    """The arguments of torch.ops.cyclegan_fast.conv2d, in the order of its schema."""

    x: Tensor  # [N, C, H, W]
    weight: Tensor  # [K, C, R, S]
    bias: Tensor | None  # [K]
    stride: int
    pad: int
    winograd: bool


class InputGradInputs(NamedTuple):
    """Those of conv2d_input_grad."""

    grad_y: Tensor  # [N, K, OH, OW]
    weight: Tensor  # [K, C, R, S]
    h: int
    w: int
    stride: int
    pad: int
    winograd: bool


class WeightGradInputs(NamedTuple):
    """Those of conv2d_weight_grad."""

    x: Tensor  # [N, C, H, W]
    grad_y: Tensor  # [N, K, OH, OW]
    r: int
    s: int
    stride: int
    pad: int
    winograd: bool
    dtype: torch.dtype  # of the weight


def _run(op: Any, *arguments: Any) -> Tensor:
    """Calls an operator; below autograd where nothing is recorded, which saves a third of the overhead."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def _input_grad(grad_y: Tensor, weight: Tensor, like: Tensor, geometry: tuple[int, int, bool]) -> Tensor:
    """dL/dx, of the height and width of `like`."""
    return _run(torch.ops.cyclegan_fast.conv2d_input_grad, grad_y, weight, *like.shape[2:], *geometry)


def _weight_grad(x: Tensor, grad_y: Tensor, like: Tensor, geometry: tuple[int, int, bool]) -> Tensor:
    """dL/dweight, of the kernel size and type of `like`."""
    return _run(torch.ops.cyclegan_fast.conv2d_weight_grad, x, grad_y, *like.shape[2:], *geometry, like.dtype)


def _forward(x: Tensor, weight: Tensor, geometry: tuple[int, int, bool]) -> Tensor:
    return _run(torch.ops.cyclegan_fast.conv2d, x, weight, None, *geometry)


def _dense(grad: Tensor) -> Tensor:
    return grad.contiguous(memory_format=torch.channels_last)


def _conv2d_backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, *others = ctx.needs_input_grad
    grad_y = _dense(grad_y)
    return (
        _input_grad(grad_y, weight, x, ctx.geometry) if needs_x else None,
        _weight_grad(x, grad_y, weight, ctx.geometry) if needs_weight else None,
        grad_y.sum((0, 2, 3), dtype=torch.float32) if needs_bias else None,
        *(None,) * len(others),
    )


def _input_grad_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Of grad_x = conv2d_input_grad(grad_y, weight), by grad_y and weight."""
    grad_y, weight = ctx.saved_tensors
    needs_grad_y, needs_weight, *others = ctx.needs_input_grad
    grad = _dense(grad)
    return (
        _forward(grad, weight, ctx.geometry) if needs_grad_y else None,
        _weight_grad(grad, grad_y, weight, ctx.geometry) if needs_weight else None,
        *(None,) * len(others),
    )


def _weight_grad_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Of grad_weight = conv2d_weight_grad(x, grad_y), by x and grad_y: a second derivative."""
    x, grad_y = ctx.saved_tensors
    needs_x, needs_grad_y, *others = ctx.needs_input_grad
    grad = _dense(grad)
    return (
        _input_grad(grad_y, grad, x, ctx.geometry) if needs_x else None,
        _forward(x, grad, ctx.geometry) if needs_grad_y else None,
        *(None,) * len(others),
    )


def _setup_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    named = Conv2dInputs(*inputs)
    ctx.geometry = named.stride, named.pad, named.winograd
    ctx.save_for_backward(named.x, named.weight)


def _setup_input_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    named = InputGradInputs(*inputs)
    ctx.geometry = named.stride, named.pad, named.winograd
    ctx.save_for_backward(named.grad_y, named.weight)


def _setup_weight_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    named = WeightGradInputs(*inputs)
    ctx.geometry = named.stride, named.pad, named.winograd
    ctx.save_for_backward(named.x, named.grad_y)


class _Conv2d(torch.autograd.Function):
    """The eager path, with less overhead than the autograd kernel that torch.library makes of the same functions.

    autograd looks for tensors among the arguments themselves, not inside a tuple: so it gets them twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, inputs: Conv2dInputs) -> Tensor:
        ctx.geometry = inputs.stride, inputs.pad, inputs.winograd
        ctx.save_for_backward(x, weight)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.cyclegan_fast.conv2d(*inputs)

    backward = staticmethod(_conv2d_backward)  # type: ignore[assignment]


class _ConvTranspose2d(torch.autograd.Function):
    """As `_Conv2d`."""

    @staticmethod
    def forward(ctx: Any, grad_y: Tensor, weight: Tensor, inputs: InputGradInputs) -> Tensor:
        ctx.geometry = inputs.stride, inputs.pad, inputs.winograd
        ctx.save_for_backward(grad_y, weight)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.cyclegan_fast.conv2d_input_grad(*inputs)

    backward = staticmethod(_input_grad_backward)  # type: ignore[assignment]


def _empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last)


def _fake_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, pad: int, winograd: bool) -> Tensor:
    h, w = ((x.shape[i] + 2 * pad - weight.shape[i]) // stride + 1 for i in (2, 3))
    return _empty(x, x.shape[0], weight.shape[0], h, w)


def _fake_input_grad(grad_y: Tensor, weight: Tensor, h: int, w: int, stride: int, pad: int, winograd: bool) -> Tensor:
    return _empty(grad_y, grad_y.shape[0], weight.shape[1], h, w)


def _fake_weight_grad(
    x: Tensor, grad_y: Tensor, r: int, s: int, stride: int, pad: int, winograd: bool, dtype: torch.dtype
) -> Tensor:
    return _empty(x, grad_y.shape[1], x.shape[1], r, s, dtype=dtype)


if extension_available():
    torch.library.register_fake("cyclegan_fast::conv2d", _fake_conv2d)
    torch.library.register_fake("cyclegan_fast::conv2d_input_grad", _fake_input_grad)
    torch.library.register_fake("cyclegan_fast::conv2d_weight_grad", _fake_weight_grad)
    torch.library.register_autograd("cyclegan_fast::conv2d", _conv2d_backward, setup_context=_setup_conv2d)
    torch.library.register_autograd(
        "cyclegan_fast::conv2d_input_grad", _input_grad_backward, setup_context=_setup_input_grad
    )
    torch.library.register_autograd(
        "cyclegan_fast::conv2d_weight_grad", _weight_grad_backward, setup_context=_setup_weight_grad
    )
