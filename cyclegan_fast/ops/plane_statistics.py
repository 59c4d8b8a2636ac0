"""plane_statistics, which instance_norm_act takes as `statistics`, and merge_statistics: those of tiles as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops import reference
from cyclegan_fast.ops.extension import extension_available, runs_reference
from cyclegan_fast.ops.layout import check_dense, stat_dtype


def plane_statistics(x: Tensor) -> Tensor:
    """The mean of each plane, and the sum of the squares about it. Not differentiable: the result is a constant.

    Args:
        x: [N, C, H, W] with H and W above 0, in float32, bfloat16, float16 or float64, contiguous or channels_last.

    Returns:
        [3, N, C] in float32 (float64 for float64): the mean, 0, and the sum of (x - mean)^2; that is the shift, the
        sum of x - shift and the sum of (x - shift)^2 that `instance_norm_act` takes as `statistics`.

    Raises:
        UserError: if `x` has another shape, type or memory layout.
    """
    if x.dim() != 4 or x.shape[2] * x.shape[3] == 0:
        raise UserError(f"plane_statistics: x must have shape [N, C, H, W] with H and W above 0, got {list(x.shape)}")
    if runs_reference(x):
        return reference.plane_statistics(x.detach())
    check_dense("plane_statistics", "x", x)
    return torch.ops.cyclegan_fast.plane_statistics(x.detach())


def merge_statistics(parts: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The statistics of several tiles as one, by Chan's rule: no digits are lost to means far from zero.

    Args:
        parts: each tile's statistics, [3, N, C], with any shifts.
        counts: each tile's pixels in a plane, H * W.

    Returns:
        [3, N, C] in the type of the parts: the mean, 0, and the sum of the squares about it, over sum(counts) pixels.

    Raises:
        UserError: if the parts differ in shape, type or device, or a count is missing or not above 0.
    """
    if not parts or len(parts) != len(counts) or min(counts) <= 0:
        raise UserError(f"merge_statistics: {len(parts)} parts need as many counts above 0, got {list(counts)}")
    first = parts[0]
    if any((p.shape, p.dtype, p.device) != (first.shape, first.dtype, first.device) for p in parts) or (
        first.dim() != 3 or first.shape[0] != 3
    ):
        shapes = ", ".join(f"{p.dtype} {list(p.shape)} on {p.device}" for p in parts)
        raise UserError(f"merge_statistics: parts must be [3, N, C], alike in shape, type and device, got {shapes}")
    count = torch.tensor(counts, dtype=torch.float64, device=first.device).view(-1, 1, 1)
    shift, total, squares = torch.stack(tuple(parts), 1).double()  # [tiles, N, C] each
    mean = shift + total / count
    merged = (mean * count).sum(0) / count.sum()
    about = squares - total * total / count + count * (mean - merged) ** 2
    return torch.stack((merged, torch.zeros_like(merged), about.sum(0))).to(first.dtype)


def _fake(x: Tensor) -> Tensor:
    return x.new_empty((3, x.shape[0], x.shape[1]), dtype=stat_dtype(x.dtype))


if extension_available():
    torch.library.register_fake("cyclegan_fast::plane_statistics", _fake)
