"""The layouts and types that the kernels read, and those of what they return: as csrc/torch/tensors.h does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last where `x` is that and is not contiguous as well; contiguous otherwise."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def empty_in_layout_of(x: Tensor, shape: Sequence[int]) -> Tensor:
    """An uninitialised tensor of `shape` [N, C, H, W], of the type, device and layout of `x`."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_dense(op: str, name: str, x: Tensor) -> None:
    """Raises UserError unless the kernels can read `x`: a floating type, contiguous or channels_last."""
    if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
        raise UserError(
            f"{op}: {name} must be contiguous or channels_last, got strides {list(x.stride())} for shape "
            f"{list(x.shape)}; pass {name}.contiguous()"
        )
    if x.dtype not in DTYPES:
        raise UserError(f"{op}: {name} must be float32, bfloat16, float16 or float64, got {x.dtype}")


def any_requires_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd must record an operator on these; a plain loop, the fastest form of it."""
    for t in tensors:  # noqa: SIM110
        if t is not None and t.requires_grad:
            return True
    return False


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The type in which a convolution of `x` computes: that of autocast where it is on, but for float64."""
    if x.is_meta or x.dtype == torch.float64 or not torch.is_autocast_enabled(x.device.type):
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


def full_precision(dtype: torch.dtype) -> torch.dtype:
    """float32 for a type of 16 bits; the others as they are."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def stat_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type that sums and statistics over elements of `dtype` have."""
    return torch.float64 if dtype == torch.float64 else torch.float32
