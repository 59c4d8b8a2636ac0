"""Which convolutions on CUDA run by our kernels for layers with few channels on one side; off by default."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.extension import runs_reference

# CYCLEGAN_FAST_NARROW_CONV: "on" or "off" (the default, until a GPU has measured them).
_setting = os.environ.get("CYCLEGAN_FAST_NARROW_CONV", "off")
if _setting not in ("on", "off"):
    raise UserError(f"CYCLEGAN_FAST_NARROW_CONV must be on or off, got {_setting!r}")
_enabled = _setting == "on"

MAX_NARROW = 8
MAX_WIDE = 128
MAX_NARROW_BESIDE_MAX_WIDE = 3  # beside more narrow channels half as many wide ones fit
VECTOR = 8  # elements of 16 bytes


@contextlib.contextmanager
def narrow_convolutions(enabled: bool) -> Iterator[None]:
    """Switches the narrow convolutions of this process on or off while it is entered, whatever the environment says.

    What is computed inside keeps its choice in the backward pass.
    """
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


def runs_narrow(x: Tensor, dtype: torch.dtype, weight: Tensor, stride: int, pad: int) -> bool:
    """Whether conv2d of x [N, C, H, W], rounded to `dtype`, with weight [K, C, R, S] runs by the narrow kernels."""
    if not _enabled or not x.is_cuda or dtype not in (torch.bfloat16, torch.float16):
        return False
    k, c, r, s = weight.shape
    wide_input = c > MAX_NARROW
    return (
        weight.dtype in (torch.float32, dtype)
        and x.is_contiguous(memory_format=torch.channels_last)
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not (wide_input and x.dtype == dtype and x.storage_offset() % VECTOR)  # 16-byte aligned
        and fits_narrow(k, c, r, s, stride, pad)
        and not runs_reference(x)
    )


def fits_narrow(k: int, c: int, r: int, s: int, stride: int, pad: int) -> bool:
    """Whether the kernels fit: as `narrow_conv_fits` in csrc/kernels/narrow_conv.h, and no 1x1 or 2x2 kernels.

    Those are as fast in cuDNN: they read each pixel about once.
    """
    narrow, wide = (k, c) if c > MAX_NARROW else (c, k)
    max_wide = MAX_WIDE if narrow <= MAX_NARROW_BESIDE_MAX_WIDE else MAX_WIDE // 2
    return (
        1 <= narrow <= MAX_NARROW
        and 2 * VECTOR <= wide <= max_wide
        and wide % VECTOR == 0
        and r == s
        and 3 <= r <= 7
        and 1 <= stride <= (1 if c > MAX_NARROW else 2)
        and 0 <= pad < r
    )
