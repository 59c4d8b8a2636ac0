"""What the tests of the operators share: layouts, tolerances, random tensors, a comparison that NaN fails."""

from __future__ import annotations

import torch
from torch import Tensor

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# Largest error relative to 1 + |expected|: a rounding of the result, and sums in float32.
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3, torch.float64: 1e-11}
DEVICES = ["cpu", "cuda"]


def assert_close(got: Tensor, expected: Tensor, limit: float, what: str = "") -> None:
    """Fails where any element, NaN included, is farther than `limit` * (1 + |expected|)."""
    assert got.shape == expected.shape, f"{what}: shape {list(got.shape)}, expected {list(expected.shape)}"
    if expected.numel() == 0:
        return
    expected = expected.double()
    error = ((got.double().to(expected.device) - expected).abs() / (1 + expected.abs())).max().item()
    assert error <= limit, f"{what}: error {error:.3g} over {limit:.3g}"


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, device: str, layout: str, mean: float = 0.0) -> Tensor:
    """A leaf that requires a gradient, of normal values with the given mean."""
    values = torch.randn(shape, dtype=torch.float64, device=device) + mean
    return values.to(dtype).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()


def in_float64(tensor: Tensor, device: str = "cpu") -> Tensor:
    """A contiguous float64 leaf with the same values: ATen is wrong for channels_last gradients on the CPU."""
    return tensor.detach().double().to(device).contiguous().requires_grad_(tensor.requires_grad)
