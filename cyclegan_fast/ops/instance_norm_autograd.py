"""The kernels of instance_norm_act as torch sees them: the shapes they give, their gradients, and the way to them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.extension import extension_available
from cyclegan_fast.ops.layout import empty_in_layout_of, stat_dtype


def call(
    x: Tensor,  # [N, C, H, W]
    residual: Tensor | None,  # [N, C, H + 2r, W + 2r]
    weight: Tensor | None,  # [C], in the type of the sums
    bias: Tensor | None,  # [C], in the type of the sums
    options: tuple[Any, ...],  # the operator's other arguments, in its order
) -> Tensor:  # [N, C, H + 2 pad, W + 2 pad]
    """Runs the kernel by the cheapest way: a small network spends more time on the way than in the kernel.

    Below autograd, the operator skips the autograd kernel that torch.library wrote in Python; a compiler must see it.
    """
    if torch.compiler.is_compiling():
        return torch.ops.cyclegan_fast.instance_norm_act_fwd(x, residual, weight, bias, *options)[0]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, residual, weight, bias)):
        return _Eager.apply(x, residual, weight, bias, options)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.cyclegan_fast.instance_norm_act_fwd(x, residual, weight, bias, *options)[0]


class _Eager(torch.autograd.Function):
    """The eager path: half the overhead of the autograd kernel that torch.library makes from the same two functions."""

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


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1], output[2])
    _keep(ctx, inputs, output)


def _backward(ctx: Any, grad_y: Tensor, grad_mean: None, grad_rstd: None) -> tuple[Tensor | None, ...]:
    return (*_gradients(ctx, grad_y), *(None,) * 7)


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


def _refuse_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise UserError("instance_norm_act: the kernel is differentiable once; call it inside ops.use_reference() for more")


if extension_available():
    torch.library.register_fake("cyclegan_fast::instance_norm_act_fwd", _fake_fwd)
    torch.library.register_fake("cyclegan_fast::instance_norm_act_bwd", _fake_bwd)
    torch.library.register_autograd("cyclegan_fast::instance_norm_act_fwd", _backward, setup_context=_setup_context)
    torch.library.register_autograd("cyclegan_fast::instance_norm_act_bwd", _refuse_second_derivative)
