"""instance_norm_act: y = reflect_pad(act(xhat * weight + bias) + residual, pad), one op forward and one backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError, did_you_mean
from cyclegan_fast.ops import reference
from cyclegan_fast.ops.extension import extension_available, runs_reference
from cyclegan_fast.ops.layout import empty_in_layout_of, stat_dtype
from cyclegan_fast.ops.reflect_pad import check_pad

ACTIVATIONS = {"none": 0, "relu": 1, "leaky_relu": 2}  # the values of Activation in csrc/kernels/types.h


def instance_norm_act(
    x: Tensor,
    residual: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    statistics: Tensor | None = None,
    statistics_count: float | None = None,
    constant_statistics: bool = False,
    activation: str = "none",
    negative_slope: float = 0.2,
    eps: float = 1e-5,
    pad: int = 0,
) -> Tensor:
    """Normalises each plane, then affine, activation, residual and reflection pad, in one pass over the output.

    y = reflect_pad(act((x - mean) / sqrt(var + eps) * weight + bias) + residual, pad), with the mean and the biased
    variance of each image and channel over H x W. Only x and the statistics are kept for the backward pass.

    Args:
        x: [N, C, H, W] in float32, bfloat16, float16 or float64, contiguous or channels_last. Sums run in float32
            (float64 for float64).
        residual: [N, C, H, W], added after the activation; or [N, C, H + 2r, W + 2r], whose border of r pixels is
            ignored and gets no gradient, so that one block's padded output can be the next one's residual.
        weight: [C] in any floating type, 1 where absent; its gradient has its own type.
        bias: [C] in any floating type, 0 where absent; its gradient has its own type.
        statistics: [3, N, C] in the type of the sums: a shift, the sum of x - shift and the sum of (x - shift)^2;
            spares the pass that takes them from x. It never gets a gradient: `constant_statistics` says what x gets.
        statistics_count: pixels behind each sum, by default H * W; another number only with `constant_statistics`.
        constant_statistics: False: the statistics were taken from this very x (by a convolution's epilogue, say), and
            the gradient is that of instance norm, which passes through them. True: they are constants (those of a
            whole picture of which x is a tile, say), and grad_x is weight / sqrt(var + eps) times the gradient before
            the norm.
        activation: "none", "relu" or "leaky_relu".
        negative_slope: slope of leaky_relu below zero.
        eps: added to the variance.
        pad: reflected pixels on each side of the output, 0 <= pad < min(H, W).

    Returns:
        [N, C, H + 2 pad, W + 2 pad] in the type and layout of x.

    Raises:
        UserError: if a shape, a type or an option breaks a rule above.
    """
    _check(x, residual, activation, pad)
    if weight is not None:
        weight = _as_sums("weight", weight, x)
    if bias is not None:
        bias = _as_sums("bias", bias, x)
    if statistics is not None or statistics_count is not None or constant_statistics:
        _check_statistics(x, statistics, statistics_count, constant_statistics)
    given = (statistics, statistics_count, constant_statistics)
    if runs_reference(x):
        return reference.instance_norm_act(x, residual, weight, bias, *given, activation, negative_slope, eps, pad)
    options = (*given, ACTIVATIONS[activation], negative_slope, eps, pad)
    if torch.compiler.is_compiling():
        return torch.ops.cyclegan_fast.instance_norm_act_fwd(x, residual, weight, bias, *options)[0]
    if torch.is_grad_enabled() and _any_requires_grad(x, residual, weight, bias):
        return _Eager.apply(x, residual, weight, bias, options)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.cyclegan_fast.instance_norm_act_fwd(x, residual, weight, bias, *options)[0]


def _check(x: Tensor, residual: Tensor | None, activation: str, pad: int) -> None:
    if activation not in ACTIVATIONS:
        hint = did_you_mean(activation, ACTIVATIONS)
        raise UserError(
            f"instance_norm_act: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}{hint}"
        )
    check_pad("instance_norm_act", x, pad)
    if residual is None:
        return
    extra_h, extra_w = residual.shape[-2] - x.shape[2], residual.shape[-1] - x.shape[3]
    same = residual.dim() == 4 and residual.shape[:2] == x.shape[:2]
    if not same or extra_h != extra_w or extra_h < 0 or extra_h % 2:
        raise UserError(
            f"instance_norm_act: residual must have shape {list(x.shape)}, or that with an equal border on each side, "
            f"got {list(residual.shape)}"
        )
    if residual.dtype != x.dtype or residual.device != x.device:
        raise UserError(
            f"instance_norm_act: residual must be {x.dtype} on {x.device} as x is, "
            f"got {residual.dtype} on {residual.device}"
        )


def _as_sums(name: str, parameter: Tensor, x: Tensor) -> Tensor:
    """The parameter [C] in the type of the sums; autograd casts its gradient back."""
    channels = x.shape[1]
    if parameter.shape != (channels,) or not parameter.is_floating_point() or parameter.device != x.device:
        raise UserError(
            f"instance_norm_act: {name} must be [{channels}] floating-point numbers on {x.device}, "
            f"got {parameter.dtype} {list(parameter.shape)} on {parameter.device}"
        )
    return parameter.to(stat_dtype(x.dtype))


def _check_statistics(x: Tensor, statistics: Tensor | None, count: float | None, constant: bool) -> None:
    if statistics is None:
        raise UserError("instance_norm_act: statistics_count and constant_statistics need statistics")
    n, c, h, w = x.shape
    wanted = (stat_dtype(x.dtype), (3, n, c), x.device)
    if (statistics.dtype, statistics.shape, statistics.device) != wanted:
        raise UserError(
            f"instance_norm_act: statistics must be {wanted[0]} [3, {n}, {c}] on {x.device}, "
            f"got {statistics.dtype} {list(statistics.shape)} on {statistics.device}"
        )
    if statistics.requires_grad:
        raise UserError("instance_norm_act: statistics get no gradient: pass statistics.detach()")
    if count is not None and count <= 0:
        raise UserError(f"instance_norm_act: statistics_count must be above 0, got {count}")
    if not constant and count not in (None, h * w):
        raise UserError(
            f"instance_norm_act: statistics over {count} pixels are not those of planes of {h} x {w}: "
            "pass constant_statistics=True"
        )


def _any_requires_grad(x: Tensor, *others: Tensor | None) -> bool:
    return x.requires_grad or any(other is not None and other.requires_grad for other in others)


def _fake_fwd(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor | None,
    statistics_count: float | None,
    constant_statistics: bool,
    activation: int,
    negative_slope: float,
    eps: float,
    pad: int,
) -> tuple[Tensor, Tensor, Tensor]:
    n, c, h, w = x.shape
    y = empty_in_layout_of(x, (n, c, h + 2 * pad, w + 2 * pad))
    mean = x.new_empty((n, c), dtype=stat_dtype(x.dtype))
    return y, mean, torch.empty_like(mean)


def _fake_bwd(
    grad_y: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    constant_statistics: bool,
    activation: int,
    negative_slope: float,
    pad: int,
    residual_pad: int,
    needs_residual_grad: bool,
    needs_affine_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, c, h, w = x.shape
    border = 2 * residual_pad
    grad_residual = empty_in_layout_of(x, (n, c, h + border, w + border)) if needs_residual_grad else x.new_empty((0,))
    grad_weight = mean.new_empty((c if needs_affine_grad else 0,))
    return empty_in_layout_of(x, (n, c, h, w)), grad_residual, grad_weight, torch.empty_like(grad_weight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keeps what the backward pass reads."""
    x, residual, weight, bias, _, _, constant, activation, slope, _, pad = inputs
    residual_pad = 0 if residual is None else (residual.shape[2] - x.shape[2]) // 2
    ctx.options = (constant, activation, slope, pad, residual_pad)
    ctx.save_for_backward(x, output[1], output[2], weight, bias)


def _gradients(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Of x, residual, weight and bias."""
    _, needs_residual, needs_weight, needs_bias = ctx.needs_input_grad[:4]
    *_, pad, residual_pad = ctx.options
    passes_through = pad == 0 and residual_pad == 0  # then the residual's gradient is grad_y itself
    arguments = (
        grad_y,
        *ctx.saved_tensors,
        *ctx.options,
        needs_residual and not passes_through,
        needs_weight or needs_bias,
    )
    if torch.is_grad_enabled() or torch.compiler.is_compiling():  # create_graph: a second derivative is refused
        grads = torch.ops.cyclegan_fast.instance_norm_act_bwd(*arguments)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            grads = torch.ops.cyclegan_fast.instance_norm_act_bwd(*arguments)
    grad_x, grad_residual, grad_weight, grad_bias = grads
    return (
        grad_x,
        (grad_y if passes_through else grad_residual) if needs_residual else None,
        grad_weight if needs_weight else None,
        grad_bias if needs_bias else None,
    )


class _Eager(torch.autograd.Function):
    """The operator called straight from Python, below autograd: half the overhead of its registered autograd kernel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None, options: Any
    ) -> Tensor:
        inputs = (x, residual, weight, bias, *options)
        with torch._C._AutoDispatchBelowAutograd():
            output = torch.ops.cyclegan_fast.instance_norm_act_fwd(*inputs)
        _keep(ctx, inputs, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return (*_gradients(ctx, grad_y), None)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1], output[2])
    _keep(ctx, inputs, output)


def _backward(ctx: Any, grad_y: Tensor, grad_mean: None, grad_rstd: None) -> tuple[Tensor | None, ...]:
    return (*_gradients(ctx, grad_y), *(None,) * 7)


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise UserError("instance_norm_act: the kernel is differentiable once; call it inside ops.use_reference() for more")


if extension_available():
    torch.library.register_fake("cyclegan_fast::instance_norm_act_fwd", _fake_fwd)
    torch.library.register_fake("cyclegan_fast::instance_norm_act_bwd", _fake_bwd)
    torch.library.register_autograd("cyclegan_fast::instance_norm_act_fwd", _backward, setup_context=_setup_context)
    torch.library.register_autograd("cyclegan_fast::instance_norm_act_bwd", _refuse_second_derivative)
