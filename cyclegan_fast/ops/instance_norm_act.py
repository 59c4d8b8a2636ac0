"""instance_norm_act: y = reflect_pad(act((x - mean) * rstd) + residual, pad), forward and backward in one op each."""

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
    activation: str = "none",
    negative_slope: float = 0.2,
    eps: float = 1e-5,
    pad: int = 0,
) -> Tensor:
    """Normalises each plane, then activation, residual and reflection pad, in one pass over the output.

    y = reflect_pad(act((x - mean) / sqrt(var + eps)) + residual, pad), with the mean and the biased variance of each
    image and channel over H x W. Only x and the statistics are kept for the backward pass.

    Args:
        x: [N, C, H, W] in float32, bfloat16, float16 or float64, contiguous or channels_last. Sums run in float32
            (float64 for float64).
        residual: [N, C, H, W], added after the activation; or [N, C, H + 2r, W + 2r], whose border of r pixels is
            ignored and gets no gradient, so that one block's padded output can be the next one's residual.
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
    if runs_reference(x):
        return reference.instance_norm_act(x, residual, activation, negative_slope, eps, pad)
    return torch.ops.cyclegan_fast.instance_norm_act_fwd(
        x, residual, ACTIVATIONS[activation], negative_slope, eps, pad
    )[0]


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


def _fake_fwd(
    x: Tensor, residual: Tensor | None, activation: int, negative_slope: float, eps: float, pad: int
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
    activation: int,
    negative_slope: float,
    pad: int,
    residual_pad: int,
    needs_residual_grad: bool,
) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    border = 2 * residual_pad
    grad_residual = empty_in_layout_of(x, (n, c, h + border, w + border)) if needs_residual_grad else x.new_empty((0,))
    return empty_in_layout_of(x, (n, c, h, w)), grad_residual


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, residual, ctx.activation, ctx.negative_slope, _, ctx.pad = inputs
    _, mean, rstd = output
    ctx.residual_pad = None if residual is None else (residual.shape[2] - x.shape[2]) // 2
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, mean, rstd)


def _backward(ctx: Any, grad_y: Tensor, grad_mean: None, grad_rstd: None) -> tuple[Tensor | None, ...]:
    x, mean, rstd = ctx.saved_tensors
    wants_residual = ctx.residual_pad is not None and ctx.needs_input_grad[1]
    passes_through = ctx.pad == 0 and ctx.residual_pad == 0  # then the residual's gradient is grad_y itself
    grad_x, grad_residual = torch.ops.cyclegan_fast.instance_norm_act_bwd(
        grad_y,
        x,
        mean,
        rstd,
        ctx.activation,
        ctx.negative_slope,
        ctx.pad,
        ctx.residual_pad or 0,
        wants_residual and not passes_through,
    )
    if not wants_residual:
        grad_residual = None
    elif passes_through:
        grad_residual = grad_y
    return grad_x, grad_residual, None, None, None, None


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise UserError("instance_norm_act: the kernel is differentiable once; call it inside ops.use_reference() for more")


if extension_available():
    torch.library.register_fake("cyclegan_fast::instance_norm_act_fwd", _fake_fwd)
    torch.library.register_fake("cyclegan_fast::instance_norm_act_bwd", _fake_bwd)
    torch.library.register_autograd("cyclegan_fast::instance_norm_act_fwd", _backward, setup_context=_setup_context)
    torch.library.register_autograd("cyclegan_fast::instance_norm_act_bwd", _refuse_second_derivative)
