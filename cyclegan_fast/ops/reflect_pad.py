"""reflect_pad: y = x with `pad` mirrored pixels on each side, the edge itself not repeated."""

from __future__ import annotations

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops import reference
from cyclegan_fast.ops.extension import runs_reference


def reflect_pad(x: Tensor, pad: int) -> Tensor:
    """Pads the last two axes by reflection.

    Built of slices, flips and concatenations, so that its backward on CUDA needs no atomics, unlike that of
    ``F.pad(mode="reflect")``, and is deterministic.

    Args:
        x: [N, C, H, W], any layout and type.
        pad: pixels on each side, 0 <= pad < min(H, W).

    Returns:
        [N, C, H + 2 pad, W + 2 pad].

    Raises:
        UserError: if `x` is not 4-D or `pad` does not fit.
    """
    check_pad("reflect_pad", x, pad)
    if pad == 0 or runs_reference(x):
        return reference.reflect_pad(x, pad)
    return _mirror(_mirror(x, 2, pad), 3, pad)


def _mirror(x: Tensor, dim: int, pad: int) -> Tensor:
    size = x.shape[dim]
    before = x.narrow(dim, 1, pad).flip(dim)
    after = x.narrow(dim, size - 1 - pad, pad).flip(dim)
    return torch.cat((before, x, after), dim)


def check_pad(op: str, x: Tensor, pad: int) -> None:
    """Raises UserError unless `x` is [N, C, H, W] with 0 <= pad < min(H, W)."""
    if x.dim() != 4:
        raise UserError(f"{op}: x must have shape [N, C, H, W], got {list(x.shape)}")
    if not 0 <= pad < min(x.shape[2], x.shape[3]):
        raise UserError(f"{op}: pad must be at least 0 and less than min(H, W) of x {list(x.shape)}, got {pad}")
