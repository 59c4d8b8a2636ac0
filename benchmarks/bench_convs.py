"""Every convolution of a step by itself: forward, input gradient and weight gradient, ours beside torch's two layouts.

pytest benchmarks/bench_convs.py --benchmark-only                                a laptop's layers, ours alone
python -m benchmarks.bench_convs --size 256 --channels 64 --out docs/results     all taking turns, as a table

The last columns show where a layer stands: arithmetic a second of the best implementation, and its share of the maximum
that this machine reached in a product of large matrices in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import DEVICE, Case, Sweep, interleave, timed_rounds
from benchmarks.results import Measured, origin, path_of, stamped, write_page
from cyclegan_fast import ops
from cyclegan_fast.ops.narrow_conv import fits_narrow

PASSES = ("forward", "input gradient", "weight gradient")


@dataclass(frozen=True)
class Layer:
    """One convolution; a transposed one runs the same three passes in another order."""

    name: str
    channels: tuple[int, int]  # of x and of y
    size: int  # side of x, with its reflected border
    kernel_size: int
    stride: int
    pad: int

    def products(self, batch: int) -> int:
        """Multiplications of each pass, by the definition."""
        out = (self.size + 2 * self.pad - self.kernel_size) // self.stride + 1
        return batch * out * out * self.kernel_size**2 * self.channels[0] * self.channels[1]


def layers(size: int, width: int) -> Iterator[Layer]:
    """The distinct layers of a generator and a discriminator with ngf = ndf = width on images of `size` pixels."""
    yield Layer("stem 7x7", (3, width), size + 6, 7, 1, 0)
    yield Layer("down 1 (up 2, turned round)", (width, 2 * width), size, 3, 2, 1)
    yield Layer("down 2 (up 1, turned round)", (2 * width, 4 * width), size // 2, 3, 2, 1)
    yield Layer("residual block 3x3", (4 * width, 4 * width), size // 4 + 2, 3, 1, 0)
    yield Layer("head 7x7", (width, 3), size + 6, 7, 1, 0)
    yield Layer("discriminator 1", (3, width), size, 4, 2, 1)
    yield Layer("discriminator 2", (width, 2 * width), size // 2, 4, 2, 1)
    yield Layer("discriminator 3", (2 * width, 4 * width), size // 4, 4, 2, 1)
    yield Layer("discriminator 4", (4 * width, 8 * width), size // 8, 4, 1, 1)
    yield Layer("discriminator 5", (8 * width, 1), size // 8 - 1, 4, 1, 1)


def implementations(layer: Layer, batch: int, kind: str, dtype: torch.dtype) -> dict[str, Case]:
    """Name -> one call of a pass."""
    calls: dict[str, Case] = {}
    c, k = layer.channels
    geometry = (layer.stride, layer.pad)
    x = torch.randn(batch, c, layer.size, layer.size, device=DEVICE)
    weight = torch.randn(k, c, layer.kernel_size, layer.kernel_size, device=DEVICE) * 0.02
    grad = torch.randn_like(F.conv2d(x, weight, None, *geometry))
    for name, layout in (("torch NCHW", torch.contiguous_format), ("torch channels_last", torch.channels_last)):
        tensors = [t.to(dtype, memory_format=layout) for t in (x, weight, grad)]
        calls[name] = functools.partial(_torch_pass, kind, *tensors, geometry)
    fits = fits_narrow(k, c, layer.kernel_size, layer.kernel_size, *geometry)
    if DEVICE.type == "cuda" and ops.extension_available() and dtype != torch.float32 and fits:
        x, grad = (t.to(dtype, memory_format=torch.channels_last) for t in (x, grad))
        weight = weight.to(memory_format=torch.channels_last)
        calls["ours, narrow"] = functools.partial(_our_pass, kind, x, weight, grad, (*geometry, False))
    if DEVICE.type == "cpu" and ops.extension_available() and ops.build_info()["isa"] != "plain":
        x, grad = (t.to(dtype, memory_format=torch.channels_last) for t in (x, grad))
        weight = weight.to(memory_format=torch.channels_last)
        calls["ours, direct"] = functools.partial(_our_pass, kind, x, weight, grad, (*geometry, False))
        if layer.kernel_size == 3 and layer.stride == 1 and min(c, k) >= 16:
            calls["ours, Winograd"] = functools.partial(_our_pass, kind, x, weight, grad, (*geometry, True))
    return calls


def _torch_pass(kind: str, x: Tensor, weight: Tensor, grad: Tensor, geometry: tuple[int, int]) -> Tensor:
    if kind == "forward":
        return F.conv2d(x, weight, None, *geometry)
    stride, pad = geometry
    wanted = [kind == "input gradient", kind == "weight gradient", False]
    options = ([stride, stride], [pad, pad], [1, 1], False, [0, 0], 1, wanted)
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *options)[0 if wanted[0] else 1]


def _our_pass(kind: str, x: Tensor, weight: Tensor, grad: Tensor, geometry: tuple[int, int, bool]) -> Tensor:
    op = torch.ops.cyclegan_fast
    if kind == "forward":
        return op.conv2d(x, weight, None, *geometry)
    if kind == "input gradient":
        return op.conv2d_input_grad(grad, weight, *x.shape[2:], *geometry)
    return op.conv2d_weight_grad(x, grad, *weight.shape[2:], *geometry, weight.dtype)


def max_gmac_per_second(dtype: torch.dtype, rounds: int) -> float:
    """Multiply-adds a second, in 10^9, of a product of large matrices."""
    side = 8192 if DEVICE.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=DEVICE, dtype=dtype) for _ in range(2))
    times = interleave({"product": lambda: a @ b}, rounds=rounds, device=DEVICE)
    return side**3 / min(times["product"]) / 1e6


def measure(size: int, width: int, batch: int, dtype: torch.dtype, rounds: int) -> list[dict[str, Any]]:
    """Measures milliseconds of every implementation of every pass of every layer."""
    max_rate = max_gmac_per_second(dtype, rounds)
    rows = []
    for layer in layers(size, width):
        for kind in PASSES:
            calls = {name: Sweep([call], DEVICE) for name, call in implementations(layer, batch, kind, dtype).items()}
            times = interleave(calls, rounds=rounds, device=DEVICE)
            ms = {name: statistics.median(values) for name, values in times.items()}
            rate = layer.products(batch) / min(ms.values()) / 1e6
            rows.append(
                {"layer": layer.name, "pass": kind, "ms": ms, "gmac_per_second": rate, "share": rate / max_rate}
            )
            print(row_of(rows[-1]), flush=True)
    return rows


IMPLEMENTATIONS = ("torch NCHW", "torch channels_last", "ours, direct", "ours, Winograd", "ours, narrow")


def row_of(row: dict[str, Any]) -> str:
    ms = [f"{row['ms'][name]:.3f}" if name in row["ms"] else "" for name in IMPLEMENTATIONS]
    cells = [row["layer"], row["pass"], *ms]
    return "| " + " | ".join([*cells, f"{row['gmac_per_second']:.0f}", f"{100 * row['share']:.0f} %"]) + " |"


def page(title: str, measured: Measured) -> list[str]:
    """The table of one run, in Markdown."""
    return [
        f"# Convolutions, {title}",
        "",
        "Written by `python -m benchmarks.bench_convs`. Milliseconds, medians of implementations that take turns;",
        "GMAC/s is of the best one, counted by the definition, so that Winograd's may pass 100 % of what a product of",
        "large matrices reached in the same run.",
        "",
        *origin(measured),
        "",
        "| layer | pass | " + " | ".join(IMPLEMENTATIONS) + " | GMAC/s | of a matrix product |",
        "|---" * (len(IMPLEMENTATIONS) + 4) + "|",
        *(row_of(row) for row in measured["results"]),
    ]


# ---- pytest-benchmark ----
SMALL = list(layers(64, 16))


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: layer.name)
def test_convolution(benchmark: Any, layer: Layer, kind: str) -> None:
    calls = implementations(layer, 2, kind, torch.float32)
    sweep = Sweep([list(calls.values())[-1]], DEVICE)
    benchmark.extra_info["gmac"] = layer.products(2) / 1e9
    benchmark.pedantic(sweep.run_and_wait, rounds=timed_rounds(10), warmup_rounds=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--channels", type=int, default=16, help="ngf and ndf")
    parser.add_argument("--batch", type=int, default=2, help="images; a step's larger pass holds two of each domain")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="type of the images")
    parser.add_argument("--rounds", type=int, default=15, help="timed calls of each implementation")
    parser.add_argument("--out", type=Path, help="folder that gets <device>-convolutions-<size>px-<dtype>.md")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    title = f"{arguments.size} px, {arguments.channels} channels, batch {arguments.batch}, {arguments.dtype}"
    with torch.no_grad(), contextlib.suppress(KeyboardInterrupt):
        rows = measure(arguments.size, arguments.channels, arguments.batch, dtype, arguments.rounds)
        if arguments.out is not None:
            suffix = f"-convolutions-{arguments.size}px-{arguments.dtype}.md"
            write_page(path_of(arguments.out, suffix), page(title, stamped(rows)))


if __name__ == "__main__":
    main()
