"""Calls of instance_norm_act: cases, their random inputs, and the same in plain torch and float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from ops_helpers import TOLERANCE, assert_close, in_float64, random_tensor
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.ops.layout import memory_format_of, stat_dtype


@dataclass(frozen=True)
class Case:
    """One call of instance_norm_act."""

    shape: tuple[int, int, int, int]
    activation: str = "relu"
    pad: int = 0
    residual: int | None = None  # its border
    mean: float = 0.0
    affine: str = ""  # "weight", "bias" or "weight, bias"
    statistics: str = ""  # "own" or "constant"

    def options(self) -> dict[str, Any]:
        """All that is no tensor."""
        constant = {"constant_statistics": True, "statistics_count": 5000} if self.statistics == "constant" else {}
        return {"activation": self.activation, "pad": self.pad, **constant}


SHAPES = [(2, 5, 7, 9), (1, 16, 8, 8), (1, 37, 4, 17)]
BORDERS = [(0, None), (0, 0), (0, 2), (1, None), (3, 1)]  # pad, and the residual's border
AFFINE = ["", "weight", "bias", "weight, bias"]
STATISTICS = ["", "own", "constant"]


def cases() -> Iterator[Case]:
    """Odd sizes times activations, pads and residuals; then what needs a case of its own."""
    for shape, activation, borders in itertools.product(SHAPES, ["none", "relu", "leaky_relu"], BORDERS):
        yield Case(shape, activation, *borders)
    yield from (Case((3, 4, 1, 1), residual=r) for r in (None, 0, 1))
    yield from (Case((2, 3, 1, 11), "leaky_relu"), Case((2, 3, 11, 1), residual=1))
    yield from (Case((1, 3, 40, 37), "none", 1, None, 1e3), Case((1, 64, 33, 32), "none", 0, 0, 1e3))
    yield from (Case((0, 4, 6, 6), residual=1, pad=2), Case((1, 130, 9, 8), pad=1, residual=1))
    yield Case((1, 1, 3, 1500), pad=2, residual=0)


def wider_cases() -> Iterator[Case]:
    """Affine parameters times statistics, with shapes, activations and borders in turn; then cases of their own."""
    shapes, activations, borders = map(itertools.cycle, (SHAPES, ["leaky_relu", "relu", "none", "relu"], BORDERS))
    for affine, statistics in [(a, s) for a, s in itertools.product(AFFINE, STATISTICS) if a or s] * 2:
        yield Case(next(shapes), next(activations), *next(borders), affine=affine, statistics=statistics)
    for affine, statistics in [("weight, bias", ""), ("bias", "own"), ("weight", "constant")]:
        yield Case((3, 4, 1, 1), affine=affine, statistics=statistics)
        yield Case((0, 4, 6, 6), residual=1, pad=2, affine=affine, statistics=statistics)
        yield Case((2, 130, 9, 8), "leaky_relu", 1, 1, affine=affine, statistics=statistics)
    yield Case((1, 3, 40, 37), "none", 1, None, 1e3, "weight, bias", "own")


def padded_shape(case: Case, border: int) -> tuple[int, int, int, int]:
    """The case's shape with a border."""
    n, c, h, w = case.shape
    return n, c, h + 2 * border, w + 2 * border


def random_inputs(case: Case, dtype: torch.dtype, device: str, layouts: tuple[str, str]) -> dict[str, Tensor]:
    """The tensors of the call, by the names of its arguments. `layouts` are those of x and the residual."""
    inputs = {"x": random_tensor(case.shape, dtype, device, layouts[0], case.mean)}
    if case.residual is not None:
        inputs["residual"] = random_tensor(padded_shape(case, case.residual), dtype, device, layouts[1])
    channels = (case.shape[1],)
    if "weight" in case.affine:  # not near zero, where it would hide the rest
        sign = torch.randint(0, 2, channels, device=device) * 2 - 1
        inputs["weight"] = ((torch.rand(channels, device=device) + 0.5) * sign).to(dtype).requires_grad_()
    if "bias" in case.affine:
        inputs["bias"] = torch.randn(channels, device=device).to(dtype).requires_grad_()
    if case.statistics == "constant":
        inputs["statistics"] = constant_statistics(case, inputs["x"])
    if case.mean == 0:  # the cases far from zero have no activation
        leave_the_kink(case, inputs)
    if case.statistics == "own":
        inputs["statistics"] = own_statistics(inputs["x"])
    return inputs


def constant_statistics(case: Case, x: Tensor) -> Tensor:
    """[3, N, C] of some larger image, about a shift that is not its mean."""
    n, c, count = *x.shape[:2], case.options()["statistics_count"]
    shift, offset, var = (torch.rand(n, c, dtype=torch.float64, device=x.device) + 0.5 for _ in range(3))
    return torch.stack((shift, offset * count, (var + offset**2) * count)).to(stat_dtype(x.dtype))


def own_statistics(x: Tensor) -> Tensor:
    """[3, N, C] of x itself, about a shift that is not its mean."""
    wide = x.detach().double()
    shift = wide.mean((2, 3)) + torch.rand(x.shape[:2], dtype=torch.float64, device=x.device)
    shift = shift.to(stat_dtype(x.dtype)).double()
    apart = wide - shift[..., None, None]
    return torch.stack((shift, apart.sum((2, 3)), apart.square().sum((2, 3)))).to(stat_dtype(x.dtype))


def leave_the_kink(case: Case, inputs: dict[str, Tensor]) -> None:
    """Moves the values of x that rounding could bring to either side of the activation.

    Planes of one pixel, unless the statistics are constants, are exactly there whoever computes them.
    """
    if case.shape[2] * case.shape[3] == 1 and case.statistics != "constant":
        return
    x, others = inputs["x"], {k: v.detach() for k, v in inputs.items() if k in ("weight", "bias")}
    with torch.no_grad(), ops.use_reference():
        for _ in range(8):
            given = {k: v.double() for k, v in {"x": x.contiguous(), **others}.items()}
            if case.statistics == "constant":
                given |= {"statistics": inputs["statistics"].double()}
                given |= {"statistics_count": case.options()["statistics_count"], "constant_statistics": True}
            near = ops.instance_norm_act(**given).abs() < 3e-6
            if not near.any():
                return
            x += torch.randn_like(x) * near


def run_norm(case: Case, inputs: dict[str, Tensor], grad_y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the gradients of the inputs that have one."""
    y = ops.instance_norm_act(**inputs, **case.options())
    leaves = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    return y, dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), grad_y), strict=True))


def check(case: Case, dtype: torch.dtype, device: str, layouts: tuple[str, str, str], where: str = "cpu") -> None:
    """Compares the kernel on `device` with plain torch in float64 on `where`. `layouts`: x, residual, gradient."""
    inputs = random_inputs(case, dtype, device, layouts[:2])
    grad_y = random_tensor(padded_shape(case, case.pad), dtype, device, layouts[2]).detach()
    got, got_grads = run_norm(case, inputs, grad_y)
    with ops.use_reference():
        wide = {name: in_float64(tensor, where) for name, tensor in inputs.items()}
        expected, expected_grads = run_norm(case, wide, in_float64(grad_y, where))

    assert got.dtype == dtype and got.is_contiguous(memory_format=memory_format_of(inputs["x"]))
    # The mean itself is rounded; gradients grow with 1 / std, which is large where a plane has one pixel.
    far = abs(case.mean) * (4e-16 if dtype == torch.float64 else 2.4e-7)
    scale = 1 if case.shape[2] * case.shape[3] > 4 else 1e3
    limit = TOLERANCE[dtype] + far
    assert_close(got, expected, limit * (scale if case.statistics == "own" else 1), f"{case}: y")
    # A parameter's gradient is a sum over pixels, whose error has the spread of the sum.
    spread = (TOLERANCE[stat_dtype(dtype)] + far) * (grad_y.numel() / max(grad_y.shape[1], 1)) ** 0.5
    for name, grad in got_grads.items():
        assert grad.dtype == dtype
        bound = limit * scale + (spread if name in ("weight", "bias") else 0)
        assert_close(grad, expected_grads[name], bound, f"{case}: the gradient of {name}")
