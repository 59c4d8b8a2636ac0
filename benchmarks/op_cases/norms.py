"""Cases of instance_norm_act: relu and a border of one pixel, as between the convolutions of a residual block."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.op_cases.case import TOLERANCE, Call, OpCase, describe, noise, per_set, sets_of, torch_compiled
from cyclegan_fast import ops


def norm_forward(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    moved = _bytes(shape, dtype, reads=_passes(shape), padded=1)
    x = [noise(shape, layout, dtype) for _ in range(sets_of(moved))]
    exact = functools.partial(_aten_norm, x[0].double().contiguous())
    return OpCase(
        "norm + relu + pad, forward",
        describe(shape, layout, dtype),
        moved,
        {name: per_set(variant, x) for name, variant in _norms(compiled=False).items()},
        lambda: [exact()],
        TOLERANCE[dtype],
    )


def norm_both(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    moved = _bytes(shape, dtype, reads=2 * _passes(shape) + 1, padded=1 + _passes(shape))
    sets = range(sets_of(moved))
    x = [noise(shape, layout, dtype).requires_grad_() for _ in sets]
    gradients = [noise(_padded(shape), layout, dtype) for _ in sets]

    def with_gradient(norm: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        y = norm(x)
        return y, torch.autograd.grad(y, x, gradient)[0]

    def exact() -> list[Tensor]:
        leaf = x[0].detach().double().contiguous().requires_grad_()
        return [t.detach() for t in with_gradient(_aten_norm, leaf, gradients[0].double().contiguous())]

    return OpCase(
        "norm + relu + pad, forward and backward",
        describe(shape, layout, dtype),
        moved,
        {name: per_set(functools.partial(with_gradient, variant), x, gradients) for name, variant in _norms().items()},
        exact,
        TOLERANCE[dtype],
    )


def norm_backward(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    moved = _bytes(shape, dtype, reads=_passes(shape) + 1, padded=_passes(shape))
    return _norm_gradient("norm + relu + pad, backward", shape, layout, dtype, moved, constant=False)


def norm_backward_apply(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    moved = _bytes(shape, dtype, reads=2, padded=1)
    return _norm_gradient("backward on constant statistics", shape, layout, dtype, moved, constant=True)


def _norm_gradient(
    op: str, shape: tuple[int, ...], layout: str, dtype: torch.dtype, moved: int, constant: bool
) -> OpCase:
    sets = range(sets_of(moved))
    x = [noise(shape, layout, dtype) for _ in sets]
    gradients = [noise(_padded(shape), layout, dtype) for _ in sets]
    statistics = [_mean_and_rstd(image) for image in x]

    def ours(i: int) -> Call:
        options = (None, None, constant, 1, 0.0, 1, False, False)
        inputs = (gradients[i], None, x[i], *statistics[i], *options)
        return lambda: torch.ops.cyclegan_fast.instance_norm_act_bwd(*inputs)[0]

    def exact() -> list[Tensor]:
        leaf = x[0].double().contiguous().requires_grad_()
        mean, rstd = _mean_and_rstd(leaf.detach() if constant else leaf)
        y = F.relu((leaf - mean[:, :, None, None]) * rstd[:, :, None, None])
        y = F.pad(y, (1, 1, 1, 1), mode="reflect")
        return [torch.autograd.grad(y, leaf, gradients[0].double().contiguous())[0]]

    return OpCase(op, describe(shape, layout, dtype), moved, {"ours": ours}, exact, TOLERANCE[dtype])


def norm_end(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    """The end of a residual block, whose output two branches follow: the gradients of x and of the residual."""
    moved = _bytes(shape, dtype, reads=2 * _passes(shape) + 2, padded=_passes(shape))
    sets = range(sets_of(moved))
    x, inner = ([noise(shape, layout, dtype) for _ in sets] for _ in range(2))
    gradients = [noise(_padded(shape), layout, dtype) for _ in sets]
    statistics = [_mean_and_rstd(image) for image in x]

    def ours(i: int) -> Call:
        inputs = (gradients[i], inner[i], x[i], *statistics[i], None, None, False, 0, 0.0, 1, True, False)
        return lambda: tuple(torch.ops.cyclegan_fast.instance_norm_act_bwd(*inputs))

    def exact() -> list[Tensor]:
        leaf, residual = x[0].double().contiguous().requires_grad_(), torch.zeros_like(x[0], dtype=torch.float64)
        y = F.instance_norm(leaf) + residual.requires_grad_()
        outputs = (F.pad(y, (1, 1, 1, 1), mode="reflect"), y)
        wide = (gradients[0].double().contiguous(), inner[0].double().contiguous())
        return list(torch.autograd.grad(outputs, (leaf, residual), wide))

    return OpCase(
        "end of a residual block, backward",
        describe(shape, layout, dtype),
        moved,
        {"ours": ours},
        exact,
        TOLERANCE[dtype],
    )


def norm_apply(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> OpCase:
    moved = _bytes(shape, dtype, reads=1, padded=1)
    x = [noise(shape, layout, dtype) for _ in range(sets_of(moved))]
    statistics = [ops.plane_statistics(image) for image in x]

    def ours(x: Tensor, statistics: Tensor) -> Tensor:
        return ops.instance_norm_act(x, statistics=statistics, activation="relu", pad=1)

    return OpCase(
        "norm on ready statistics, forward",
        describe(shape, layout, dtype),
        moved,
        {"ours": per_set(ours, x, statistics)},
        lambda: [_aten_norm(x[0].double().contiguous())],
        TOLERANCE[dtype],
    )


def _our_norm(x: Tensor) -> Tensor:
    return ops.instance_norm_act(x, activation="relu", pad=1)


def _aten_norm(x: Tensor) -> Tensor:
    return F.pad(F.relu(F.instance_norm(x)), (1, 1, 1, 1), mode="reflect")


def _norms(compiled: bool = True) -> dict[str, Callable[[Tensor], Tensor]]:
    variants = {"ours": _our_norm, "aten": _aten_norm}
    return variants | {"compiled": torch_compiled(_aten_norm)} if compiled else variants


def _mean_and_rstd(x: Tensor) -> tuple[Tensor, Tensor]:
    """[N, C] each, in float32 (float64 for float64)."""
    wide = x if x.dtype == torch.float64 else x.float()
    variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0)
    return mean.contiguous(), (variance + 1e-5).rsqrt().contiguous()


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    n, c, h, w = shape
    return n, c, h + 2, w + 2


def _bytes(shape: tuple[int, ...], dtype: torch.dtype, *, reads: int, padded: int) -> int:
    """Bytes of `reads` accesses to an image and `padded` accesses to a bordered one."""
    return (reads * math.prod(shape) + padded * math.prod(_padded(shape))) * dtype.itemsize


def _passes(shape: tuple[int, ...]) -> int:
    """Times that a norm with statistics of its own must fetch an image: once where a cache or registers hold it."""
    return 1 if shape[2] * shape[3] <= 64 * 64 else 2
