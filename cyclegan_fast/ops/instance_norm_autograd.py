"""The kernels of instance_norm_act as torch sees them: how they are called, their output shapes, their gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.extension import extension_available
from cyclegan_fast.ops.layout import any_requires_grad, empty_in_layout_of, stat_dtype


class Inputs(NamedTuple):
    """The arguments of torch.ops.cyclegan_fast.instance_norm_act_fwd, in the order of its schema."""

    x: Tensor  # [N, C, H, W]
    residual: Tensor | None  # [N, C, H + 2r, W + 2r]
    weight: Tensor | None  # [C], in the type of the sums
    bias: Tensor | None  # [C], in the type of the sums
    statistics: Tensor | None  # [3, N, C], in the type of the sums
    statistics_count: float | None
    constant_statistics: bool
    activation: int  # a value of Activation in csrc/kernels/types.h
    negative_slope: float
    eps: float
    pad: int


class BackwardOptions(NamedTuple):
    """What the backward operator takes between its tensors and what is needed of it, in the order of its schema."""

    constant_statistics: bool
    activation: int
    negative_slope: float
    pad: int
    residual_pad: int


def call(inputs: Inputs) -> Tensor:  # [N, C, H + 2 pad, W + 2 pad]
    """Runs the kernel with the least overhead: a small network spends more time before the kernel than in it.

    Below autograd, the operator skips the autograd kernel that torch.library wrote in Python; a compiler must see it.
    """
    if torch.compiler.is_compiling():
        return torch.ops.cyclegan_fast.instance_norm_act_fwd(*inputs)[0]
    x, residual, weight, bias = inputs[:4]
    if torch.is_grad_enabled() and any_requires_grad(x, residual, weight, bias):
        return _Eager.apply(x, residual, weight, bias, inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.cyclegan_fast.instance_norm_act_fwd(*inputs)[0]


class _Eager(torch.autograd.Function):
    """The eager path: half the overhead of the autograd kernel that torch.library makes from the same two functions.

    autograd looks for tensors among the arguments themselves, not inside a tuple: so it gets those four twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Any, weight: Any, bias: Any, inputs: Inputs) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            output = torch.ops.cyclegan_fast.instance_norm_act_fwd(*inputs)
        _save(ctx, inputs, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return (*_gradients(ctx, grad_y), None)


def _save(ctx: Any, inputs: Inputs, output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Saves what the backward pass reads."""
    residual_pad = 0 if inputs.residual is None else (inputs.residual.shape[2] - inputs.x.shape[2]) // 2
    ctx.options = BackwardOptions(
        inputs.constant_statistics, inputs.activation, inputs.negative_slope, inputs.pad, residual_pad
    )
    _, mean, rstd = output
    ctx.save_for_backward(inputs.x, mean, rstd, inputs.weight, inputs.bias)


def _gradients(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Of x, residual, weight and bias."""
    _, needs_residual, needs_weight, needs_bias = ctx.needs_input_grad[:4]
    options: BackwardOptions = ctx.options
    passes_through = options.pad == 0 and options.residual_pad == 0  # the residual's gradient is grad_y itself
    arguments = (
        grad_y,
        *ctx.saved_tensors,
        *options,
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
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    _save(ctx, Inputs(*inputs), output)


def _backward(ctx: Any, grad_y: Tensor, grad_mean: None, grad_rstd: None) -> tuple[Tensor | None, ...]:
    gradients = _gradients(ctx, grad_y)
    return (*gradients, *(None,) * (len(Inputs._fields) - len(gradients)))


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
