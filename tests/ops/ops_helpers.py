"""What the tests of the operators share: cases, tolerances, a float64 reference, a comparison that NaN fails."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclegan_fast import ops

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# Largest error relative to 1 + |expected|: a rounding of the result, and sums in float32.
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3, torch.float64: 1e-11}
DEVICES = ["cpu", "cuda"]


def assert_close(got: Tensor, expected: Tensor, limit: float, what: str = "") -> None:
    """Fails where any element, NaN included, is farther than `limit` * (1 + |expected|)."""
    assert got.shape == expected.shape, f"{what}: shape {list(got.shape)}, expected {list(expected.shape)}"
    if expected.numel() == 0:
        return
    expected = expected.double().cpu()
    error = ((got.double().cpu() - expected).abs() / (1 + expected.abs())).max().item()
    assert error <= limit, f"{what}: error {error:.3g} over {limit:.3g}"


@dataclass(frozen=True)
class Case:
    """One call of instance_norm_act."""

    shape: tuple[int, int, int, int]
    activation: str = "relu"
    pad: int = 0
    residual: int | None = None  # its border
    mean: float = 0.0


def cases() -> Iterator[Case]:
    """Odd sizes times activations, pads and residuals; then what needs a case of its own."""
    for shape, activation in itertools.product(
        [(2, 5, 7, 9), (1, 16, 8, 8), (1, 37, 4, 17)], ["none", "relu", "leaky_relu"]
    ):
        for pad, residual in [(0, None), (0, 0), (0, 2), (1, None), (3, 1)]:
            yield Case(shape, activation, pad, residual)
    yield from (Case((3, 4, 1, 1), residual=r) for r in (None, 0, 1))
    yield from (Case((2, 3, 1, 11), "leaky_relu"), Case((2, 3, 11, 1), residual=1))
    yield from (Case((1, 3, 40, 37), "none", 1, None, 1e3), Case((1, 64, 33, 32), "none", 0, 0, 1e3))
    yield from (Case((0, 4, 6, 6), residual=1, pad=2), Case((1, 130, 9, 8), pad=1, residual=1))
    yield Case((1, 1, 3, 1500), pad=2, residual=0)


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, device: str, layout: str, mean: float = 0.0) -> Tensor:
    """A leaf that wants a gradient, of normal values with the given mean."""
    values = (torch.randn(shape, dtype=torch.float64) + mean).to(dtype)
    for _ in range(4 if mean == 0 else 0):  # the cases far from zero have no activation
        values += 0.25 * _at_the_kink(values)
    return values.to(device).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()


def _at_the_kink(values: Tensor) -> Tensor:
    """Where a value is so near to its plane's mean that rounding decides which side of the activation it is on.

    Planes of one pixel are exactly there, whoever computes them.
    """
    planes = values.double()
    if planes.dim() != 4 or planes.shape[2] * planes.shape[3] == 1:
        return torch.zeros_like(values, dtype=torch.bool)
    return (planes - planes.mean(dim=(2, 3), keepdim=True)).abs() < 1e-7


def run_norm(case: Case, x: Tensor, residual: Tensor | None, grad_y: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output and the gradients of x and the residual."""
    y = ops.instance_norm_act(x, residual, activation=case.activation, pad=case.pad)
    leaves = [x] if residual is None else [x, residual]
    return y, list(torch.autograd.grad(y, leaves, grad_y))


def in_float64(tensor: Tensor | None) -> Tensor | None:
    """A contiguous float64 leaf on the CPU with the same values: ATen is wrong for channels_last gradients there."""
    return None if tensor is None else tensor.detach().double().cpu().contiguous().requires_grad_()


def run_reference(case: Case, x: Tensor, residual: Tensor | None, grad_y: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`run_norm` in plain torch and float64."""
    with ops.use_reference():
        return run_norm(case, in_float64(x), in_float64(residual), in_float64(grad_y).detach())


def padded_shape(case: Case, border: int) -> tuple[int, int, int, int]:
    """The case's shape with a border."""
    n, c, h, w = case.shape
    return n, c, h + 2 * border, w + 2 * border
