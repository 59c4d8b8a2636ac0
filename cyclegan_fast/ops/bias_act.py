"""bias_act: what follows a convolution without a norm: a bias, an activation, a conversion, one batch taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError, did_you_mean
from cyclegan_fast.ops import reference
from cyclegan_fast.ops.extension import extension_available, runs_reference
from cyclegan_fast.ops.layout import check_dense, memory_format_of

ACTIVATIONS = ("none", "relu", "leaky_relu", "tanh")


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    negative_slope: float = 0.2,
    dtype: torch.dtype | None = None,
    batches: Sequence[int] | None = None,
) -> list[Tensor]:
    """y = activation(x + bias), in another type, one tensor for each batch in x.

    On CUDA all of it is one launch, and so is the backward pass, the bias's gradient included: the sum of that runs in
    a fixed order, so that the same inputs give the same bits. On the CPU torch's own operators run it.

    Args:
        x: [N, C, H, W] in float32, bfloat16, float16 or float64, contiguous or channels_last.
        bias: [C], of any floating type.
        activation: none, relu, leaky_relu or tanh.
        negative_slope: of leaky_relu.
        dtype: of the result: that of x, None, or float32 where x is in 16 bits; with float32 nothing in between is
            rounded.
        batches: how many images each tensor of the result holds, N together; None: one tensor holds all.

    Returns:
        A list of [n, C, H, W] in the layout of x.

    Raises:
        UserError: if an argument breaks a rule above.
    """
    options = _options(x, bias, activation, negative_slope, dtype, batches)
    if bias is None and activation == "none" and options.dtype == x.dtype:
        return [x] if len(options.batches) == 1 else list(x.split(options.batches))
    if not takes_bias(x) or x.numel() == 0:
        return reference.bias_act(x, bias, activation, negative_slope, options.dtype, options.batches)
    check_dense("bias_act", "x", x)
    return run_kernel(x, bias, options)


def takes_bias(x: Tensor) -> bool:
    """Whether a kernel runs `bias_act` on `x`, so that a convolution is to leave the bias to it."""
    return x.is_cuda and not runs_reference(x)


class Options(NamedTuple):
    """The constants of a call."""

    tanh: bool
    slope: float  # of values that are not above 0: 1 is the identity, 0 relu
    dtype: torch.dtype
    batches: list[int]


def run_kernel(x: Tensor, bias: Tensor | None, options: Options) -> list[Tensor]:
    """Runs the kernel, on either device."""
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        return list(_BiasAct.apply(x, bias, options))
    return torch.ops.cyclegan_fast.bias_act_fwd(x, bias, *options)[0]


class _BiasAct(torch.autograd.Function):
    """Takes apart its result: an autograd formula of an operator with lists costs more than small images themselves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        y, ticket = torch.ops.cyclegan_fast.bias_act_fwd(x, bias, *options)
        ctx.options = options
        ctx.channels_last = memory_format_of(x) == torch.channels_last
        ctx.dtypes = x.dtype, x.dtype if bias is None else bias.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(ticket, *([] if options.slope == 1 and not options.tanh else y))
        return tuple(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the gradient itself is wanted
            raise UserError("bias_act: the kernel is differentiable once; call ops.use_reference() for more")
        if all(grad is None for grad in grads):
            return None, None, None
        ticket, *y = ctx.saved_tensors
        needs_x, needs_bias, _ = ctx.needs_input_grad
        passes_through = len(y) == 0 and len(grads) == 1 and ctx.options.dtype == ctx.dtypes[0]
        found = iter(_gradients(ctx, grads, y, ticket, needs_x and not passes_through, needs_bias))
        grad_x = (grads[0] if passes_through else next(found)) if needs_x else None
        return grad_x, next(found) if needs_bias else None, None


def _gradients(
    ctx: Any, grads: Sequence[Tensor | None], y: list[Tensor], ticket: Tensor, needs_x: bool, needs_bias: bool
) -> list[Tensor]:
    """Those that are needed, of x and of the bias."""
    if not (needs_x or needs_bias):
        return []
    options, constants = ctx.options, (ctx.channels_last, *ctx.dtypes, needs_x, needs_bias)
    return torch.ops.cyclegan_fast.bias_act_bwd(
        list(grads), y, options.batches, ticket, options.tanh, options.slope, *constants
    )


def _options(
    x: Tensor,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
    dtype: torch.dtype | None,
    batches: Sequence[int] | None,
) -> Options:
    """The checked constants."""
    if activation not in ACTIVATIONS:
        hint = did_you_mean(activation, ACTIVATIONS)
        raise UserError(f"bias_act: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}{hint}")
    if x.dim() != 4:
        raise UserError(f"bias_act: x must have shape [N, C, H, W], got {list(x.shape)}")
    if bias is not None and (bias.shape != x.shape[1:2] or bias.device != x.device or not bias.is_floating_point()):
        raise UserError(
            f"bias_act: bias must be [{x.shape[1]}] floating-point numbers on {x.device}, "
            f"got {bias.dtype} {list(bias.shape)} on {bias.device}"
        )
    dtype = dtype or x.dtype
    if dtype != x.dtype and not (dtype == torch.float32 and x.dtype in (torch.bfloat16, torch.float16)):
        raise UserError(f"bias_act: dtype must be {x.dtype} as x is, or float32 for an x in 16 bits, got {dtype}")
    batches = [x.shape[0]] if batches is None else list(batches)
    if sum(batches) != x.shape[0]:
        raise UserError(f"bias_act: batches must hold the {len(x)} images of x together, got {batches}")
    slopes = {"none": 1.0, "relu": 0.0, "leaky_relu": negative_slope, "tanh": 0.0}
    return Options(activation == "tanh", slopes[activation], dtype, batches)


def _fake_fwd(
    x: Tensor, bias: Tensor | None, tanh: bool, slope: float, dtype: torch.dtype, batches: list[int]
) -> tuple[list[Tensor], Tensor]:
    layout = memory_format_of(x)
    y = [torch.empty((n, *x.shape[1:]), dtype=dtype, device=x.device, memory_format=layout) for n in batches]
    return y, x.new_empty((1,), dtype=torch.int32)


def _fake_bwd(
    grads: list[Tensor | None],
    y: list[Tensor],
    batches: list[int],
    ticket: Tensor,
    tanh: bool,
    slope: float,
    channels_last: bool,
    x_dtype: torch.dtype,
    bias_dtype: torch.dtype,
    needs_x: bool,
    needs_bias: bool,
) -> list[Tensor]:
    like = next(grad for grad in grads if grad is not None)
    shape, layout = (sum(batches), *like.shape[1:]), torch.channels_last if channels_last else torch.contiguous_format
    found = []
    if needs_x:
        found.append(torch.empty(shape, dtype=x_dtype, device=like.device, memory_format=layout))
    if needs_bias:
        found.append(like.new_empty((like.shape[1],), dtype=bias_dtype))
    return found


if extension_available():
    torch.library.register_fake("cyclegan_fast::bias_act_fwd", _fake_fwd)
    torch.library.register_fake("cyclegan_fast::bias_act_bwd", _fake_bwd)
