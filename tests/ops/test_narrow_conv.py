"""Which convolutions run by the narrow kernels on CUDA, on fake tensors; test_narrow_conv_gpu.py has their results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cyclegan_fast import ops
from cyclegan_fast.ops.narrow_conv import fits_narrow, narrow_convolutions

ROOT = Path(__file__).resolve().parents[2]

# Prints layer -> (the convolutions that its forward and backward pass issue, casts).
PROGRAM = """
import tests.fake_cuda
import contextlib, json
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from cyclegan_fast import ops
from tests.fake_cuda import device

HALF, SINGLE = torch.bfloat16, torch.float32

class Issued(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.__name__.split(".")[0])
        return function(*args, **(kwargs or {}))

def images(c, size, dtype, layout, misaligned):
    x = torch.empty(2 * size * size * c + misaligned, device="cuda", dtype=dtype)[int(misaligned):]
    return x.view(2, size, size, c).permute(0, 3, 1, 2).contiguous(memory_format=layout).detach().requires_grad_()

def layer(c, k, kernel, stride=1, pad=0, on=True, amp=HALF, dtype=SINGLE, weights=SINGLE, layout=torch.channels_last,
          bias=False, context=contextlib.nullcontext, misaligned=False, penalty=False):
    weight = torch.empty(k, c, kernel, kernel, device="cuda", dtype=weights).to(memory_format=torch.channels_last)
    inputs = [images(c, 32, dtype, layout, misaligned), weight.requires_grad_()]
    if bias:
        inputs.append(torch.empty(k, device="cuda", requires_grad=True))
    with ops.narrow_convolutions(on), context(), Issued() as issued:
        with torch.autocast("cuda", amp, enabled=amp is not None):
            y = ops.conv2d(*inputs, stride=stride, pad=pad)
        found = torch.autograd.grad(y, inputs, torch.empty_like(y), create_graph=penalty)
        if penalty:
            found += torch.autograd.grad(found[0].float().square().sum(), inputs[1])
            inputs.append(inputs[1])
    for got, given in zip(found, inputs, strict=True):
        assert (got.dtype, got.shape, got.device) == (given.dtype, given.shape, given.device)
    if layout == torch.channels_last:
        assert all(t.is_contiguous(memory_format=layout) for t in (y, found[0]))
    return [name for name in issued.names if name.startswith("conv")], issued.names.count("_to_copy")

with device.mode():
    print(json.dumps({
        "stem": layer(3, 64, 7),
        "head": layer(64, 3, 7, bias=True),
        "discriminator": layer(3, 64, 4, 2, 1, bias=True),
        "one channel": layer(1, 16, 7),
        "float16": layer(3, 64, 7, amp=torch.float16),
        "images in 16 bits": layer(3, 64, 7, amp=None, dtype=HALF),
        "weights in 16 bits": layer(3, 64, 7, amp=None, dtype=HALF, weights=HALF),
        "gradient penalty": layer(3, 64, 4, 2, 1, penalty=True),
        "off": layer(3, 64, 7, on=False),
        "float32": layer(3, 64, 7, amp=None),
        "NCHW": layer(3, 64, 7, layout=torch.contiguous_format),
        "reference": layer(3, 64, 7, context=ops.use_reference),
        "not aligned": layer(64, 3, 7, amp=None, dtype=HALF, weights=HALF, misaligned=True),
        "weights of another type": layer(3, 64, 7, amp=torch.float16, weights=HALF),
        "residual block": layer(256, 256, 3),
    }))
"""
OURS = ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"]
TORCH = ["convolution", "convolution_backward"]


@pytest.fixture(scope="module")
def issued() -> dict[str, tuple[list[str], int]]:
    if torch.version.cuda is not None or not ops.build_info().get("cuda_archs"):
        pytest.skip("needs a torch that was built without CUDA and an extension that was built with it")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("layer", "casts"),
    [("stem", 2), ("head", 4), ("discriminator", 4), ("one channel", 2), ("float16", 2), ("images in 16 bits", 0)],
)
def test_narrow_layers_run_by_our_kernels(issued: dict[str, tuple[list[str], int]], layer: str, casts: int) -> None:
    """No cast of a weight or of its gradient; of the images and their gradient, and of the bias and its own."""
    assert issued[layer] == [OURS, casts]


def test_weights_in_16_bits_are_read_as_they_are(issued: dict[str, tuple[list[str], int]]) -> None:
    assert issued["weights in 16 bits"] == [OURS, 0]


def test_second_derivatives_run_by_our_kernels(issued: dict[str, tuple[list[str], int]]) -> None:
    """Of |dL/dx|^2 by the weight: through the input's gradient, which depends on it."""
    names, _ = issued["gradient penalty"]
    assert names == [*OURS, "conv2d_weight_grad"]


@pytest.mark.parametrize(
    "layer",
    ["off", "float32", "NCHW", "reference", "not aligned", "weights of another type", "residual block"],
)
def test_other_layers_run_by_torch(issued: dict[str, tuple[list[str], int]], layer: str) -> None:
    names, _ = issued[layer]
    assert names == TORCH


@pytest.mark.parametrize(
    ("shape", "stride", "pad", "fits"),
    [
        ((64, 3, 7, 7), 1, 0, True),
        ((64, 3, 4, 4), 2, 1, True),
        ((128, 3, 7, 7), 1, 3, True),
        ((3, 128, 7, 7), 1, 6, True),
        ((64, 8, 7, 7), 2, 0, True),
        ((16, 1, 3, 3), 1, 1, True),
        ((24, 2, 5, 5), 1, 1, True),
        ((128, 4, 7, 7), 1, 0, False),  # too much for the shared memory
        ((136, 3, 7, 7), 1, 0, False),
        ((64, 9, 7, 7), 1, 0, False),
        ((8, 3, 7, 7), 1, 0, False),
        ((20, 3, 7, 7), 1, 0, False),
        ((3, 64, 4, 4), 2, 1, False),  # with a stride from narrow to wide alone
        ((64, 3, 4, 4), 3, 1, False),
        ((64, 3, 1, 1), 1, 0, False),
        ((64, 3, 8, 8), 1, 0, False),
        ((64, 3, 3, 5), 1, 0, False),
        ((64, 3, 3, 3), 1, 3, False),
    ],
)
def test_sizes(shape: tuple[int, int, int, int], stride: int, pad: int, fits: bool) -> None:
    assert fits_narrow(*shape, stride, pad) == fits


def test_the_switch_is_set_back() -> None:
    def enabled() -> bool:
        return sys.modules["cyclegan_fast.ops.narrow_conv"]._enabled

    before = enabled()
    with narrow_convolutions(not before), pytest.raises(KeyError), narrow_convolutions(before):
        raise KeyError
    assert enabled() == before


@pytest.mark.parametrize(
    ("value", "report"), [("on", "True"), ("off", "False"), ("yes", "must be on or off, got 'yes'")]
)
def test_the_environment_variable(value: str, report: str) -> None:
    program = "from cyclegan_fast.ops import narrow_conv; print(narrow_conv._enabled)"
    environment = os.environ | {"CYCLEGAN_FAST_NARROW_CONV": value, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert report in done.stdout + done.stderr
