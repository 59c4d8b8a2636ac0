"""What a case of an operator is, and what the makers of cases share.

A case holds enough sets of inputs that a call finds its own outside the caches when they take turns. A variant is one
implementation; it makes, for each set, a call without arguments.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import DEVICE

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
DTYPES = [torch.float32, torch.bfloat16] + ([torch.float16] if DEVICE.type == "cuda" else [])
SHAPES = [(1, 256, 64, 64), (1, 64, 256, 256)]  # a residual block's plane, and the stem's, at 256 px
if harness.quick:
    SHAPES = [(1, 32, 64, 64)]
elif DEVICE.type == "cuda":
    # Far over the L2 cache, and first: they show what the memory gives. The last: the discriminator's last norm.
    SHAPES = [(8, 64, 256, 256), (8, 256, 64, 64), *SHAPES, (8, 512, 31, 31)]
COLD_BYTES = 2**29 if DEVICE.type == "cuda" else 2**27  # all sets together: several times the caches
# |got - exact| / |exact| over all elements: a mask that rounding flips at a value near the mean counts for little.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 5e-3}

Call = Callable[[], Any]  # returns a tensor, or a tuple of them
Variant = Callable[[int], Call]  # of a set's number


@dataclass(frozen=True)
class OpCase:
    """One operator at one size."""

    op: str
    what: str  # shape, layout, type
    bytes_moved: int  # by one call, every pass counted
    variants: dict[str, Variant]  # "ours" and its peers
    expected: Callable[[], list[Tensor]]  # exact results of set 0
    tolerance: float = 1e-5

    @property
    def sets(self) -> int:
        """Sets of inputs that the variants are called with."""
        return sets_of(self.bytes_moved)

    def check(self, variant: str) -> None:
        """Raises unless the results of `variant` are right; NaN is wrong."""
        got = self.variants[variant](0)()
        for one, exact in zip(got if isinstance(got, tuple) else (got,), self.expected(), strict=True):
            error = (one.double().cpu() - exact.cpu()).norm() / exact.cpu().norm()
            if not error <= self.tolerance:
                raise AssertionError(f"{self.op}, {self.what}, {variant}: off by {error:.2g} of the result")


def sets_of(bytes_moved: int) -> int:
    return 2 if harness.quick else min(max(math.ceil(COLD_BYTES / bytes_moved), 2), 64)


def noise(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype).to(memory_format=LAYOUTS[layout])


def describe(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> str:
    return f"{'x'.join(map(str, shape))} {layout} {str(dtype).removeprefix('torch.')}"


def per_set(variant: Callable[..., Any], *inputs: list[Any]) -> Variant:
    """`variant` on the inputs of one set."""
    return lambda i: functools.partial(variant, *(one[i] for one in inputs))


def torch_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """By torch.compile, at the first call."""
    return torch.compile(function, dynamic=False)
