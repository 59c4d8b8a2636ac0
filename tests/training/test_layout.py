"""No layout copy in a channels_last step: whatever is copied keeps its memory format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cyclegan_fast import ops
from cyclegan_fast.config import ModelConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.step import CycleGANStep

aten = torch.ops.aten
COPIES = (aten.clone.default, aten._to_copy.default, aten.copy_.default)


class LayoutCopies(TorchDispatchMode):
    """Counts the copies from one memory format to another, by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in COPIES:
            before = args[1] if func is aten.copy_.default else args[0]
            if before.dim() == 4 and before.shape == result.shape and formats(before).isdisjoint(formats(result)):
                self.found[tuple(before.shape)] += 1
        return result


def formats(x: Tensor) -> set[str]:
    """The formats in which `x` lies or from which it was cut: both where a side of 1 makes them the same."""
    strides = [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1]
    pixels = [stride for stride, size in zip(x.stride()[2:], x.shape[2:], strict=True) if size > 1]
    if x.shape[1] == 1 or not pixels:
        return {"nchw", "nhwc"}
    return {"nhwc"} if x.stride(1) < min(pixels) else {"nchw"} if strides else set()


def channels_last(shape: tuple[int, ...], device: str) -> Tensor:
    return (torch.rand(shape, device=device) * 2 - 1).to(memory_format=torch.channels_last)


def make_step(amp: str, device: str, generator: str = "resnet_2blocks") -> tuple[CycleGANStep, Callable[[], Tensor]]:
    model = ModelConfig(generator=generator, ngf=8, ndf=8)
    networks = build_networks(model).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = CycleGANStep(networks, TrainConfig(model=model, run=RunConfig(amp=amp, side_by_side="off")))

    def images() -> Tensor:
        return channels_last((2, 3, 40, 48), device)

    step(images(), images())  # Adam makes its state
    return step, images


def test_a_layout_copy_is_counted() -> None:
    x = channels_last((1, 3, 4, 5), "cpu")
    with LayoutCopies() as copies:
        x.contiguous()
        x.clone()
        torch.empty(1, 3, 4, 5).copy_(x)
        x.to(torch.float64)
        x[:, :, 1:3].to(torch.float64, memory_format=torch.contiguous_format)
    assert copies.found == {(1, 3, 4, 5): 2, (1, 3, 2, 5): 1}


@pytest.mark.skipif(not ops.extension_available(), reason="no extension")
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_no_layout_copy_in_a_step(amp: str) -> None:
    step, images = make_step(amp, "cpu")
    a, b = images(), images()
    with LayoutCopies() as copies:
        step(a, b)
    assert not copies.found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_no_layout_copy_in_a_step_on_cuda(amp: str) -> None:
    """Of ours or of torch's: what cuDNN converts inside an algorithm of its choice, no dispatcher sees."""
    step, images = make_step(amp, "cuda")
    a, b = images(), images()
    with LayoutCopies() as copies:
        step(a, b)
    assert not copies.found
