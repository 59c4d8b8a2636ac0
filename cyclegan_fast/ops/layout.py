"""How the operators lay out what they return, for the fake kernels: the twin of csrc/torch/tensors.h."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last where `x` is that and is not contiguous as well; contiguous otherwise."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def empty_in_layout_of(x: Tensor, shape: Sequence[int]) -> Tensor:
    """An uninitialised tensor of `shape` [N, C, H, W], of the type, device and layout of `x`."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


def stat_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that sums and statistics over elements of `dtype` have."""
    return torch.float64 if dtype == torch.float64 else torch.float32
