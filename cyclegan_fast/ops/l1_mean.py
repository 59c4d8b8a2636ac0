"""l1_mean: the mean of |a - b|; value and sign in one pass, so that the backward pass reads one byte per element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops import reference
from cyclegan_fast.ops.extension import extension_available, runs_reference
from cyclegan_fast.ops.layout import stat_dtype


def l1_mean(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference, with gradients to both sides; the derivative at a == b is 0.

    Args:
        a: any shape, in float32, bfloat16, float16 or float64, contiguous or channels_last.
        b: the shape of `a`. Two different types meet in the wider one, as in torch.

    Returns:
        A scalar in float32 (float64 for float64).

    Raises:
        UserError: if the shapes or the devices differ.
    """
    if a.shape != b.shape or a.device != b.device:
        raise UserError(
            f"l1_mean: b must have the shape and device of a, {list(a.shape)} on {a.device}, "
            f"got {list(b.shape)} on {b.device}"
        )
    if runs_reference(a):
        return reference.l1_mean(a, b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    with_sign = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    return torch.ops.cyclegan_fast.l1_mean_fwd(a.to(dtype), b.to(dtype), with_sign)[0]


def _fake_fwd(a: Tensor, b: Tensor, with_sign: bool) -> tuple[Tensor, Tensor]:
    value = a.new_empty((), dtype=stat_dtype(a.dtype))
    sign = torch.empty_like(a, dtype=torch.int8) if with_sign else a.new_empty((0,), dtype=torch.int8)
    return value, sign


def _fake_bwd(grad: Tensor, sign: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(sign, dtype=dtype)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
    a, _, with_sign = inputs
    _, sign = output
    if (a.requires_grad or inputs[1].requires_grad) and not with_sign:
        raise UserError("l1_mean_fwd: with_sign must be true where a gradient is needed")
    ctx.dtype = a.dtype
    ctx.mark_non_differentiable(sign)
    ctx.save_for_backward(sign)


def _backward(ctx: Any, grad: Tensor, grad_sign: None) -> tuple[Tensor | None, Tensor | None, None]:
    (sign,) = ctx.saved_tensors
    bwd = torch.ops.cyclegan_fast.l1_mean_bwd
    grad_a = bwd(grad, sign, ctx.dtype) if ctx.needs_input_grad[0] else None
    grad_b = bwd(-grad, sign, ctx.dtype) if ctx.needs_input_grad[1] else None
    return grad_a, grad_b, None


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise UserError("l1_mean: the kernel is differentiable once; call it inside ops.use_reference() for more")


if extension_available():
    torch.library.register_fake("cyclegan_fast::l1_mean_fwd", _fake_fwd)
    torch.library.register_fake("cyclegan_fast::l1_mean_bwd", _fake_bwd)
    torch.library.register_autograd("cyclegan_fast::l1_mean_fwd", _backward, setup_context=_setup_context)
    torch.library.register_autograd("cyclegan_fast::l1_mean_bwd", _refuse_second_derivative)
