"""reflect_pad: images, or several batches as one, with mirrored pixels on each side, in the type that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops import reference
from cyclegan_fast.ops.extension import extension_available, runs_reference
from cyclegan_fast.ops.layout import any_requires_grad, check_dense, memory_format_of

MAX_MEMBERS = 8  # of one launch, kMaxMembers in csrc/kernels/members.h


def reflect_pad(x: Tensor | Sequence[Tensor], pad: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Concatenates along the batch, pads the last two axes by reflection and converts, all in one launch.

    The edge itself is not repeated. The backward pass is one launch too; it gathers, so that on CUDA it needs no
    atomics, unlike that of ``F.pad(mode="reflect")``, and is deterministic.

    Args:
        x: [N, C, H, W] in float32, bfloat16, float16 or float64; or several of these, which may differ in N. Those in
            another layout than the first are copied into its layout.
        pad: pixels on each side, 0 <= pad < min(H, W).
        dtype: of the result; None is that of `x`.

    Returns:
        [sum of N, C, H + 2 pad, W + 2 pad] in the layout of (the first) x; x itself where nothing is to be done.

    Raises:
        UserError: if `pad` does not fit, or the batches differ in more than N and layout.
    """
    members = [x] if isinstance(x, Tensor) else list(x)
    _check(members, pad)
    first = members[0]
    dtype = dtype or first.dtype
    if runs_reference(first):
        return reference.reflect_pad(members, pad, dtype)
    if len(members) == 1 and pad == 0 and dtype == first.dtype:
        return first
    if dtype != first.dtype and not (first.dtype == torch.float32 and dtype in (torch.bfloat16, torch.float16)):
        members = [member.to(dtype) for member in members]
    members = [_dense(member) for member in members]
    if len(members) > MAX_MEMBERS:
        members = [torch.cat(members)]
    if torch.is_grad_enabled() and any_requires_grad(*members):
        return _ReflectPad.apply(pad, dtype, *members)
    return torch.ops.cyclegan_fast.reflect_pad_fwd(members, pad, dtype)


class _ReflectPad(torch.autograd.Function):
    """Takes its tensors flat: an autograd formula of an operator with lists costs more than small images themselves."""

    @staticmethod
    def forward(ctx: Any, pad: int, dtype: torch.dtype, *members: Tensor) -> Tensor:
        ctx.pad, ctx.batches, ctx.dtype = pad, [len(member) for member in members], members[0].dtype
        ctx.layout = memory_format_of(members[0])
        return torch.ops.cyclegan_fast.reflect_pad_fwd(members, pad, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the gradient itself is wanted
            raise UserError(
                "reflect_pad: the kernel is differentiable once; call it inside ops.use_reference() for more"
            )
        needed = list(ctx.needs_input_grad[2:])
        grad = grad.contiguous(memory_format=ctx.layout)
        grads = iter(torch.ops.cyclegan_fast.reflect_pad_bwd(grad, ctx.pad, ctx.batches, needed, ctx.dtype))
        return None, None, *(next(grads) if need else None for need in needed)


def check_pad(op: str, x: Tensor, pad: int) -> None:
    """Raises UserError unless `x` is [N, C, H, W] with 0 <= pad < min(H, W)."""
    if x.dim() != 4:
        raise UserError(f"{op}: x must have shape [N, C, H, W], got {list(x.shape)}")
    if not 0 <= pad < min(x.shape[2], x.shape[3]):
        raise UserError(f"{op}: pad must be at least 0 and less than min(H, W) of x {list(x.shape)}, got {pad}")


def _check(members: list[Tensor], pad: int) -> None:
    if not members:
        raise UserError("reflect_pad: there must be at least one batch of images")
    first = members[0]
    check_pad("reflect_pad", first, pad)
    for other in members[1:]:
        if (other.shape[1:], other.dtype, other.device) != (first.shape[1:], first.dtype, first.device):
            raise UserError(
                f"reflect_pad: all batches must be {first.dtype} [N, {', '.join(map(str, first.shape[1:]))}] on "
                f"{first.device} as the first is, got {other.dtype} {list(other.shape)} on {other.device}"
            )


def _dense(x: Tensor) -> Tensor:
    """x where the kernels can read it; else a copy."""
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    x = x if dense else x.contiguous()
    check_dense("reflect_pad", "x", x)
    return x


def _fake_fwd(x: list[Tensor], pad: int, dtype: torch.dtype) -> Tensor:
    n, (_, c, h, w) = sum(len(member) for member in x), x[0].shape
    shape, layout = (n, c, h + 2 * pad, w + 2 * pad), memory_format_of(x[0])
    return torch.empty(shape, dtype=dtype, device=x[0].device, memory_format=layout)


def _fake_bwd(grad: Tensor, pad: int, batches: list[int], needed: list[bool], dtype: torch.dtype) -> list[Tensor]:
    _, c, h, w = grad.shape
    layout = memory_format_of(grad)
    return [
        torch.empty((n, c, h - 2 * pad, w - 2 * pad), dtype=dtype, device=grad.device, memory_format=layout)
        for n, need in zip(batches, needed, strict=True)
        if need
    ]


if extension_available():
    torch.library.register_fake("cyclegan_fast::reflect_pad_fwd", _fake_fwd)
    torch.library.register_fake("cyclegan_fast::reflect_pad_bwd", _fake_bwd)
