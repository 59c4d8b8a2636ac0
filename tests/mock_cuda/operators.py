"""The operators of torch that the mock runtime cannot run: convolutions, products of matrices, a number that is read.

cuDNN and cuBLAS bring a CUDA runtime of their own. Here their operators allocate what they return, in the layout that
cuDNN chooses, and leave one launch for each product.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.mock_cuda import runtime

_KEPT: list[torch.library.Library] = []  # what it implements lasts as long as it lives


def install() -> None:
    """Replaces the operators in this process, if it runs on the mock."""
    if not runtime.preloaded() or _KEPT:
        return
    library = torch.library.Library("aten", "IMPL", "CUDA")
    warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
    for name, function in (
        ("convolution", convolution),
        ("convolution_backward", convolution_backward),
        ("mm", mm),
        ("_local_scalar_dense", read_number),
    ):
        library.impl(name, function)
    _KEPT.append(library)
    torch.backends.cudnn.enabled = False  # batch norm is torch's own


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """[N, C, H, W], and the bias by a launch of its own."""
    layout = _layout(x, weight)
    x, weight = _laid_out(x, layout), _laid_out(weight, layout)
    size = [
        (x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1
        + output_padding[i] if transposed
        else (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]  # fmt: skip
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    y = torch.empty([len(x), channels, *size], dtype=x.dtype, device=x.device, memory_format=layout)
    _launch("convolution", x, weight)
    return y if bias is None else y.add_(bias.view(1, -1, 1, 1))


def convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, stride: Any, padding: Any,
    dilation: Any, transposed: bool, output_padding: Any, groups: int, wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of x, of the weight and of the bias, each where it is wanted."""
    layout = _layout(x, weight)
    gradient, x, weight = (_laid_out(t, layout) for t in (gradient, x, weight))
    found: list[Tensor | None] = [None, None, None]
    for i, (what, tensor) in enumerate((("input", x), ("weight", weight))):
        if wanted[i]:
            found[i] = torch.empty_like(tensor, memory_format=layout)
            _launch(f"{what} gradient of the convolution", gradient, weight)
    if wanted[2]:
        found[2] = gradient.sum((0, 2, 3))
    return found[0], found[1], found[2]


def mm(a: Tensor, b: Tensor) -> Tensor:
    """[M, K] times [K, N]."""
    _launch("product", a, b)
    return a.new_empty(a.shape[0], b.shape[1])


def read_number(x: Tensor) -> float | bool | int:
    """Waits for the device as torch does, and gives 1: finite, positive and true."""
    with torch.cuda.device(x.device):
        pinned = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        return torch.ones_like(pinned.copy_(x)).item()


def _layout(x: Tensor, weight: Tensor) -> torch.memory_format:
    """channels_last where one of both is nothing else, as cuDNN chooses."""
    last = any(
        t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in (x, weight)
    )  # fmt: skip
    return torch.channels_last if last else torch.contiguous_format


def _laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    return x if x.is_contiguous(memory_format=layout) else x.contiguous(memory_format=layout)


def _launch(name: str, first: Tensor, second: Tensor) -> None:
    """One launch of a library on two tensors, which must be of one type and on the current device."""
    assert first.dtype == second.dtype, f"{name} of {first.dtype} and {second.dtype}"
    assert first.device == second.device, f"{name} of {first.device} and {second.device}"
    text = f"{name} {list(first.shape)} {list(second.shape)} {first.dtype}"
    error = runtime.launch(text, torch.cuda.current_stream(first.device).cuda_stream)
    assert error == 0, f"{text}: CUDA error {error}"
