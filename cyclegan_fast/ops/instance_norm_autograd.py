"""The kernels of instance_norm_act as torch sees them: how they are called, their output shapes, their gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.extension import extension_available
from cyclegan_fast.ops.joint_passes import next_slot
from cyclegan_fast.ops.layout import any_requires_grad, empty_in_layout_of, stat_dtype


class Inputs(NamedTuple):
    """The arguments of torch.ops.cyclegan_fast.instance_norm_act_fwd, in the order of its schema."""

    x: Tensor  # [N, C, H, W]
    residual: Tensor | None  # [N, C, H, W], dense or the inside of a padded one
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


def call(inputs: Inputs) -> Tensor:  # [N, C, H + 2 pad, W + 2 pad]
    """Runs the kernel with the least overhead: a small network spends more time before the kernel than in it.

    Below autograd, the operator skips the autograd kernel that torch.library wrote in Python; a compiler must see it.
    """
    if _is_recorded(inputs):
        return _Eager.apply(*inputs[:4], inputs)
    return _run(torch.ops.cyclegan_fast.instance_norm_act_fwd, *inputs)[0]


def call_fork(inputs: Inputs) -> tuple[Tensor, Tensor]:  # [N, C, H + 2 pad, W + 2 pad], [N, C, H, W]
    """The same output twice, the second time without its border."""
    if _is_recorded(inputs):
        return _EagerFork.apply(*inputs[:4], inputs)
    y = _run(torch.ops.cyclegan_fast.instance_norm_act_fwd, *inputs)[0]
    return y, _inside(y, inputs.pad)


def _is_recorded(inputs: Inputs) -> bool:
    """Whether an autograd Function of our own records the call; a compiler needs none."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and any_requires_grad(*inputs[:4])


def _run(op: Any, *arguments: Any) -> Any:
    if torch.compiler.is_compiling():
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def _inside(y: Tensor, pad: int) -> Tensor:
    """[N, C, H + 2 pad, W + 2 pad] -> [N, C, H, W], a view; as one call, a third of the time of its slices."""
    n, c, h, w = y.shape
    if torch.compiler.is_compiling():
        return y[:, :, pad : h - pad, pad : w - pad]
    strides = y.stride()
    first = y.storage_offset() + pad * (strides[2] + strides[3])
    return y.as_strided((n, c, h - 2 * pad, w - 2 * pad), strides, first)


class _Eager(torch.autograd.Function):
    """The eager path: half the overhead of the autograd kernel that torch.library makes from the same two functions.

    autograd looks for tensors among the arguments themselves, not inside a tuple: so it gets those four twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Any, weight: Any, bias: Any, inputs: Inputs) -> Tensor:
        return _forward(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return (*_gradients(ctx, grad_y, None), None)


class _EagerFork(torch.autograd.Function):
    """As `_Eager`, with the output twice: its backward pass gets both gradients, which autograd would sum before it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Any, weight: Any, bias: Any, inputs: Inputs) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        y = _forward(ctx, inputs)
        return y, _inside(y, inputs.pad)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, grad_inner: Tensor | None) -> tuple[Tensor | None, ...]:
        return (*_gradients(ctx, grad_y, grad_inner), None)


def _forward(ctx: Any, inputs: Inputs) -> Tensor:
    """Runs the kernel, in a joint pass into a part of a larger tensor, and saves what the backward pass reads."""
    slot = next_slot(inputs.x, inputs.pad)
    # Not the slot: it holds the output, whose graph holds `ctx`, and nothing would ever free the circle.
    ctx.grad_x = None if slot is None else slot.grad_x
    if slot is None:
        output = _run(torch.ops.cyclegan_fast.instance_norm_act_fwd, *inputs)
    else:
        output = slot.y, *_run(torch.ops.cyclegan_fast.instance_norm_act_fwd_into, *inputs, slot.y)
    _save(ctx, inputs, output)
    return output[0]


def _save(ctx: Any, inputs: Inputs, output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Saves what the backward pass reads."""
    ctx.options = BackwardOptions(inputs.constant_statistics, inputs.activation, inputs.negative_slope, inputs.pad)
    _, mean, rstd = output
    ctx.save_for_backward(inputs.x, mean, rstd, inputs.weight, inputs.bias)


def _gradients(
    ctx: Any, grad_y: Tensor | None, grad_inner: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Of x, residual, weight and bias, from those of y and of its inside, each None where nothing follows it."""
    _, needs_residual, needs_weight, needs_bias = ctx.needs_input_grad[:4]
    options: BackwardOptions = ctx.options
    if grad_y is None:
        options, grad_y, grad_inner = options._replace(pad=0), grad_inner, None
    if grad_y is None:
        return None, None, None, None
    passes_through = options.pad == 0 and grad_inner is None  # the residual's gradient is grad_y itself
    writes_residual, writes_affine = needs_residual and not passes_through, needs_weight or needs_bias
    arguments = (grad_y, grad_inner, *ctx.saved_tensors, *options, writes_residual, writes_affine)
    if torch.is_grad_enabled():  # create_graph: a second derivative is refused
        grads = torch.ops.cyclegan_fast.instance_norm_act_bwd(*arguments)
    elif ctx.grad_x is not None:
        others = _run(torch.ops.cyclegan_fast.instance_norm_act_bwd_into, *arguments, ctx.grad_x)
        grads = [ctx.grad_x, *others]
    else:
        grads = _run(torch.ops.cyclegan_fast.instance_norm_act_bwd, *arguments)
    grad_x, *others = grads
    grad_residual = others.pop(0) if writes_residual else grad_y
    grad_weight, grad_bias = others or (None, None)
    return (
        grad_x,
        grad_residual if needs_residual else None,
        grad_weight if needs_weight else None,
        grad_bias if needs_bias else None,
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.grad_x = None
    _save(ctx, Inputs(*inputs), output)


def _backward(ctx: Any, grad_y: Tensor, grad_mean: None, grad_rstd: None) -> tuple[Tensor | None, ...]:
    gradients = _gradients(ctx, grad_y, None)
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
    grad_inner: Tensor | None,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    constant_statistics: bool,
    activation: int,
    negative_slope: float,
    pad: int,
    needs_residual_grad: bool,
    needs_affine_grad: bool,
) -> list[Tensor]:
    images = [empty_in_layout_of(x, x.shape) for _ in range(2 if needs_residual_grad else 1)]
    return images + [mean.new_empty((x.shape[1],)) for _ in range(2 if needs_affine_grad else 0)]


def _refuse_second_derivative(ctx: Any, *grads: Any) -> None:
    raise UserError("instance_norm_act: the kernel is differentiable once; call it inside ops.use_reference() for more")


def _fake_fwd_into(*arguments: Any) -> tuple[Tensor, Tensor]:
    _, mean, rstd = _fake_fwd(*arguments[:-1])
    return mean, rstd


def _fake_bwd_into(*arguments: Any) -> list[Tensor]:
    return _fake_bwd(*arguments[:-1])[1:]


if extension_available():
    torch.library.register_fake("cyclegan_fast::instance_norm_act_fwd_into", _fake_fwd_into)
    torch.library.register_fake("cyclegan_fast::instance_norm_act_bwd_into", _fake_bwd_into)
    torch.library.register_fake("cyclegan_fast::instance_norm_act_fwd", _fake_fwd)
    torch.library.register_fake("cyclegan_fast::instance_norm_act_bwd", _fake_bwd)
    torch.library.register_autograd("cyclegan_fast::instance_norm_act_fwd", _backward, setup_context=_setup_context)
    torch.library.register_autograd("cyclegan_fast::instance_norm_act_bwd", _refuse_second_derivative)
