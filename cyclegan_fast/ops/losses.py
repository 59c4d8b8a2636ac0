"""The losses of a step as weighted means, all in one launch: of |a - b|, (a - target)^2 or max(0, 1 - target a)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops import reference
from cyclegan_fast.ops.extension import extension_available, runs_reference
from cyclegan_fast.ops.layout import check_dense, stat_dtype

L1, SQUARE, HINGE = range(3)  # the values of Loss in csrc/kernels/losses.h
MAX_TERMS = 8  # of one launch, kMaxTerms there


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
    return _l1("l1_mean", [a], [b], [1.0]).squeeze(0)


def cycle_loss(pairs: Sequence[tuple[Tensor, Tensor]], weights: Sequence[float]) -> Tensor:
    """The weighted mean absolute difference of each pair, all in one launch.

    Args:
        pairs: K times (a, b) as `l1_mean` takes them; the pairs may differ in shape and layout. All types meet in the
            widest.
        weights: [K], what each mean is multiplied by.

    Returns:
        [K] in float32 (float64 for float64), with gradients to every a and b.

    Raises:
        UserError: if there is no pair, the numbers of pairs and weights differ, or shapes or devices do.
    """
    return _l1("cycle_loss", [a for a, _ in pairs], [b for _, b in pairs], weights)


def lsgan_loss(scores: Sequence[Tensor], targets: Sequence[float], weights: Sequence[float]) -> Tensor:
    """weight * mean (score - target)^2 of each tensor of scores, all in one launch (Mao et al. 2017).

    Args:
        scores: K tensors of any shapes, in float32, bfloat16, float16 or float64, contiguous or channels_last. All
            types meet in the widest.
        targets: [K], what each should score: 1 where it should look real, 0 where fake.
        weights: [K], what each mean is multiplied by.

    Returns:
        [K] in float32 (float64 for float64), with gradients to every tensor of scores.

    Raises:
        UserError: if there are no scores, the numbers of scores, targets and weights differ, or devices do.
    """
    _check("lsgan_loss", scores, targets=targets, weights=weights)
    if runs_reference(scores[0]):
        return reference.lsgan_loss(scores, targets, weights)
    return _launch("lsgan_loss", SQUARE, scores, [], targets, weights)


def hinge_loss(scores: Sequence[Tensor], targets: Sequence[float], weights: Sequence[float]) -> Tensor:
    """weight * mean max(0, 1 - target * score) of each tensor of scores, all in one launch (Lim and Ye 2017).

    Args:
        scores: as in `lsgan_loss`.
        targets: [K], 1 where scores should be above 1 (real), -1 where below -1 (fake).
        weights: [K], what each mean is multiplied by.

    Returns:
        [K] in float32 (float64 for float64), with gradients to every tensor of scores; at the kink it is 0.

    Raises:
        UserError: as in `lsgan_loss`, or if a target is neither 1 nor -1.
    """
    _check("hinge_loss", scores, targets=targets, weights=weights)
    if any(target not in (1, -1) for target in targets):
        raise UserError(f"hinge_loss: targets must be 1 (real) or -1 (fake), got {list(targets)}")
    if runs_reference(scores[0]):
        return reference.hinge_loss(scores, targets, weights)
    return _launch("hinge_loss", HINGE, scores, [], targets, weights)


def _l1(op: str, a: Sequence[Tensor], b: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    _check(op, a, weights=weights)
    for x, y in zip(a, b, strict=True):
        if x.shape != y.shape or x.device != y.device:
            raise UserError(
                f"{op}: b must have the shape and device of a, {list(x.shape)} on {x.device}, "
                f"got {list(y.shape)} on {y.device}"
            )
    if runs_reference(a[0]):
        return reference.cycle_loss(a, b, weights)
    return _launch(op, L1, a, b, [], weights)


def _check(op: str, terms: Sequence[Tensor], **constants: Sequence[float]) -> None:
    if not terms:
        raise UserError(f"{op}: there must be at least one term")
    for name, values in constants.items():
        if len(values) != len(terms):
            raise UserError(f"{op}: {name} must hold one number for each of the {len(terms)} terms, got {len(values)}")
    if any(term.device != terms[0].device for term in terms):
        raise UserError(f"{op}: all terms must be on one device, got {', '.join(str(term.device) for term in terms)}")


def _launch(
    op: str,
    loss: int,
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    targets: Sequence[float],
    weights: Sequence[float],
) -> Tensor:
    tensors = _in_one_dtype([*a, *b])
    a, b = tensors[: len(a)], tensors[len(a) :]
    for x in a:
        check_dense(op, "a" if b else "scores", x)
    if len(a) > MAX_TERMS:
        chunks = [slice(i, i + MAX_TERMS) for i in range(0, len(a), MAX_TERMS)]
        return torch.cat([_launch(op, loss, a[c], b[c], targets[c], weights[c]) for c in chunks])
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return _Losses.apply(Constants(loss, targets, weights), *tensors)
    return torch.ops.cyclegan_fast.losses_fwd(loss, a, b, targets, weights, False)[0]


def _in_one_dtype(tensors: list[Tensor]) -> list[Tensor]:
    dtypes = {x.dtype for x in tensors}
    if len(dtypes) == 1:
        return tensors
    widest = functools.reduce(torch.promote_types, dtypes)
    return [x.to(widest) for x in tensors]


class Constants(NamedTuple):
    """What the terms of one launch have besides their tensors."""

    loss: int  # L1, SQUARE or HINGE
    targets: Sequence[float]  # [K], none for L1
    weights: Sequence[float]  # [K]


class _Losses(torch.autograd.Function):
    """Takes its tensors flat: an autograd formula of an operator with lists costs more than small losses themselves."""

    @staticmethod
    def forward(ctx: Any, constants: Constants, *tensors: Tensor) -> Tensor:
        loss, targets, weights = constants
        a, b = tensors[: len(weights)], tensors[len(weights) :]
        values, signs = torch.ops.cyclegan_fast.losses_fwd(loss, a, b, targets, weights, loss == L1)
        ctx.constants, ctx.dtype = constants, a[0].dtype
        ctx.save_for_backward(*(signs if loss == L1 else a))
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the gradient itself is wanted
            raise UserError("the losses' kernel is differentiable once; call it inside ops.use_reference() for more")
        loss, targets, weights = ctx.constants
        grads = tuple(torch.ops.cyclegan_fast.losses_bwd(loss, grad, ctx.saved_tensors, targets, weights, ctx.dtype))
        if loss == L1:
            _, *needs_grad = ctx.needs_input_grad  # of each a, then of each b
            needs_b = any(needs_grad[len(grads) :])
            grads += tuple(-g if needs_b else None for g in grads)
        return None, *grads


def _fake_fwd(
    loss: int, a: list[Tensor], b: list[Tensor], targets: list[float], weights: list[float], with_sign: bool
) -> tuple[Tensor, list[Tensor]]:
    values = a[0].new_empty((len(a),), dtype=stat_dtype(a[0].dtype))
    return values, [torch.empty_like(x, dtype=torch.int8) for x in a] if with_sign and loss == L1 else []


def _fake_bwd(
    loss: int, grad: Tensor, saved: list[Tensor], targets: list[float], weights: list[float], dtype: torch.dtype
) -> list[Tensor]:
    return [torch.empty_like(x, dtype=dtype) for x in saved]


if extension_available():
    torch.library.register_fake("cyclegan_fast::losses_fwd", _fake_fwd)
    torch.library.register_fake("cyclegan_fast::losses_bwd", _fake_bwd)
