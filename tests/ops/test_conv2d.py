"""conv2d and conv_transpose2d: against float64, by Winograd's algorithm and directly, and as torch operators."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cyclegan_fast import ops

Case = tuple[int, int, int, int, int, int, int, int]  # N, C, K, H, W, kernel size, stride, pad
CASES: dict[str, Case] = {
    "stem": (2, 3, 16, 15, 13, 7, 1, 0),
    "head": (2, 16, 3, 15, 13, 7, 1, 0),
    "block": (2, 32, 32, 10, 9, 3, 1, 0),
    "block, more than a chunk of tiles": (1, 16, 16, 70, 71, 3, 1, 1),
    "down": (2, 16, 32, 12, 10, 3, 2, 1),
    "discriminator's first": (1, 1, 16, 12, 12, 4, 2, 1),
    "discriminator's last": (1, 40, 1, 6, 7, 4, 1, 1),
    "odd": (3, 5, 7, 9, 11, 3, 2, 0),
    "1x1": (2, 33, 18, 4, 5, 1, 1, 0),
    "no images": (0, 16, 16, 8, 8, 3, 1, 1),
}


def ours_runs() -> bool:
    return ops.extension_available() and ops.build_info()["isa"] != "plain"


@pytest.fixture(params=["winograd", "direct"])
def algorithm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(importlib.import_module("cyclegan_fast.ops.conv2d"), "_algorithm", request.param)
    return request.param


def leaf(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape) * scale).to(dtype, memory_format=torch.channels_last).requires_grad_()


def results(f: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor | None = None) -> list[Tensor]:
    """The output and the gradients of all inputs."""
    y = f(*inputs)
    grad = torch.ones_like(y) if grad is None else grad.to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


def size_of_sums(plain: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The root of the sum of the squared terms of each output and gradient: what a sum of random terms is about as
    large as, whether they cancel or not.
    """
    squared = [t.detach().double().square().requires_grad_() for t in inputs]
    return [sums.sqrt() for sums in results(plain, squared, grad.double().square())]


def check(f: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: list[Tensor], limit: float) -> None:
    shape = plain(*inputs).shape
    grad = torch.randn(shape)
    exact = results(plain, [t.detach().double().requires_grad_() for t in inputs], grad)
    sizes = size_of_sums(plain, inputs, grad)
    for name, got, expected, size in zip(
        ("y", "x", "weight", "bias"), results(f, inputs, grad), exact, sizes, strict=False
    ):
        assert got.shape == expected.shape, name
        error = (got.double() - expected).norm() / size.norm().clamp_min(1e-12)
        assert expected.numel() == 0 or error <= limit, f"{name}: {error:.1e}"


@pytest.mark.parametrize("name", CASES)
def test_equals_float64(algorithm: str, name: str) -> None:
    n, c, k, h, w, kernel, stride, pad = CASES[name]
    inputs = [leaf(n, c, h, w), leaf(k, c, kernel, kernel), torch.randn(k, requires_grad=True)]
    check(
        lambda x, weight, bias: ops.conv2d(x, weight, bias, stride=stride, pad=pad),
        lambda x, weight, bias: F.conv2d(x, weight, bias, stride, pad),
        inputs,
        4e-6 if algorithm == "winograd" else 1e-6,
    )
    check(
        lambda x, weight: ops.conv2d(x, weight, stride=stride, pad=pad),
        lambda x, weight: F.conv2d(x, weight, None, stride, pad),
        inputs[:2],
        4e-6 if algorithm == "winograd" else 1e-6,
    )


@pytest.mark.parametrize(
    ("shape", "weight", "stride", "pad", "output_pad"),
    [
        ((2, 32, 5, 6), (32, 16, 3, 3), 2, 1, 1),
        ((1, 5, 4, 4), (5, 7, 4, 4), 2, 1, 0),
        ((1, 6, 4, 3), (6, 3, 3, 3), 3, 0, 2),
        ((2, 17, 8, 7), (17, 16, 3, 3), 1, 1, 0),
    ],
)
def test_transposed_equals_float64(
    algorithm: str, shape: tuple[int, ...], weight: tuple[int, ...], stride: int, pad: int, output_pad: int
) -> None:
    check(
        lambda x, w: ops.conv_transpose2d(x, w, stride=stride, pad=pad, output_pad=output_pad),
        lambda x, w: F.conv_transpose2d(x, w, None, stride, pad, output_pad),
        [leaf(*shape), leaf(*weight)],
        4e-6,
    )


@pytest.mark.parametrize("channels", [64, 256])
def test_rounding_of_winograd(channels: int) -> None:
    """Twice that of a plain sum in float32: its points are chosen for it."""
    x, weight = torch.randn(1, channels, 22, 22), torch.randn(channels, channels, 3, 3) * 0.02
    exact = F.conv2d(x.double(), weight.double())
    x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
    error = (ops.conv2d(x, weight).double() - exact).norm() / exact.norm()
    assert error <= 3e-6


def test_keeps_the_layout_and_the_type() -> None:
    x, weight = leaf(2, 16, 9, 8), leaf(24, 16, 3, 3)
    y, grad_x, grad_weight = results(lambda x, w: ops.conv2d(x, w, pad=1), [x, weight])
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (y, grad_x, grad_weight))
    plain = ops.conv2d(x.contiguous(), weight.contiguous(), pad=1)
    assert plain.is_contiguous()
    assert torch.allclose(plain, y, atol=1e-4)


@pytest.mark.parametrize("amx", [False, True], ids=["without AMX", "with AMX"])
@pytest.mark.parametrize("name", ["stem", "block", "down", "discriminator's last"])
def test_autocast_rounds_the_images_alone(
    monkeypatch: pytest.MonkeyPatch, algorithm: str, name: str, amx: bool
) -> None:
    monkeypatch.setattr(importlib.import_module("cyclegan_fast.ops.conv2d"), "_has_amx", amx)
    n, c, k, h, w, kernel, stride, pad = CASES[name]
    x, weight = leaf(n, c, h, w), leaf(k, c, kernel, kernel)
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.conv2d(x, weight, stride=stride, pad=pad)
    assert y.dtype == torch.bfloat16
    grads = torch.autograd.grad(y, (x, weight), torch.ones_like(y))
    assert [g.dtype for g in grads] == [torch.float32, torch.float32]
    exact = results(
        lambda x, w: F.conv2d(x, w, None, stride, pad), [t.detach().double().requires_grad_() for t in (x, weight)]
    )
    for got, expected in zip((y, *grads), exact, strict=True):
        assert (got.double() - expected).norm() <= 1e-2 * expected.norm()


@pytest.mark.skipif(not ours_runs(), reason="needs the extension")
@pytest.mark.parametrize(
    ("amx", "outputs", "expected"), [(True, 16, False), (True, 1, True), (False, 16, True)], ids=str
)
def test_tiles_multiply_bfloat16_but_for_one_output(
    monkeypatch: pytest.MonkeyPatch, amx: bool, outputs: int, expected: bool
) -> None:
    module = importlib.import_module("cyclegan_fast.ops.conv2d")
    monkeypatch.setattr(module, "_has_amx", amx)
    monkeypatch.setattr(module, "_algorithm", "winograd")
    x, weight = leaf(1, 16, 8, 8), leaf(outputs, 16, 3, 3)
    ran: list[str] = []

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            ran.append(str(func))
            return func(*args, **(kwargs or {}))

    with torch.autocast("cpu", torch.bfloat16), Operators():
        ops.conv2d(x, weight, pad=1)
    assert ("cyclegan_fast.conv2d.default" in ran) is expected


@pytest.mark.parametrize("name", ["head", "block", "down"])
def test_same_bits_for_any_thread_count(algorithm: str, name: str) -> None:
    n, c, k, h, w, kernel, stride, pad = CASES[name]
    inputs = [leaf(n, c, h, w), leaf(k, c, kernel, kernel)]
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            seen.append(results(lambda x, w: ops.conv2d(x, w, stride=stride, pad=pad), inputs))
    finally:
        torch.set_num_threads(before)
    assert all(a.equal(b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512_bf16"])
def test_each_instruction_set(monkeypatch: pytest.MonkeyPatch, algorithm: str, isa: str) -> None:
    monkeypatch.setenv("CYCLEGAN_FAST_ISA", isa)
    if not ops.extension_available() or ops.build_info()["isa"] != isa:
        pytest.skip(f"no extension, or this processor has no {isa}")
    for name in CASES:
        test_equals_float64(algorithm, name)


@pytest.mark.parametrize("name", ["block", "down"])
def test_second_derivatives(algorithm: str, name: str) -> None:
    n, c, k, h, w, kernel, stride, pad = CASES[name]

    def slopes(f: Callable[..., Tensor], x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(f(x, weight, None, stride, pad).square().sum(), (x, weight), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), (x, weight))

    x, weight = leaf(n, c, h, w), leaf(k, c, kernel, kernel)
    got = slopes(lambda x, w, b, s, p: ops.conv2d(x, w, b, stride=s, pad=p), x, weight)
    exact = slopes(F.conv2d, *(t.detach().double().requires_grad_() for t in (x, weight)))
    for a, b in zip(got, exact, strict=True):
        assert (a.double() - b).norm() <= 1e-5 * b.norm()


@pytest.mark.skipif(not ours_runs(), reason="needs the extension on a processor with AVX2")
@pytest.mark.parametrize("winograd", [False, True])
def test_opcheck(winograd: bool) -> None:
    op = torch.ops.cyclegan_fast
    x, weight, bias = leaf(2, 16, 8, 9), leaf(20, 16, 3, 3), torch.randn(20, requires_grad=True)
    torch.library.opcheck(op.conv2d, (x, weight, bias, 1, 1, winograd))
    torch.library.opcheck(op.conv2d, (x, weight, None, 2, 1, winograd))
    torch.library.opcheck(op.conv2d_input_grad, (leaf(2, 20, 8, 9), weight, 8, 9, 1, 1, winograd))
    with torch.no_grad():
        inputs = x.detach(), leaf(2, 20, 8, 9).detach(), 3, 3, 1, 1, winograd, torch.float32
        torch.library.opcheck(op.conv2d_weight_grad, inputs)


@pytest.mark.skipif(not ours_runs(), reason="needs the extension on a processor with AVX2")
def test_what_does_not_fit_is_refused() -> None:
    op = torch.ops.cyclegan_fast
    x, weight = leaf(1, 16, 8, 8).detach(), leaf(20, 16, 3, 3).detach()
    for message, call in {
        "channels_last": lambda: op.conv2d(x.contiguous(), weight, None, 1, 1, True),
        "float32": lambda: op.conv2d(x, weight.double(), None, 1, 1, True),
        "float32 or bfloat16": lambda: op.conv2d(x.half(), weight, None, 1, 1, True),
        "do not fit": lambda: op.conv2d_input_grad(leaf(1, 20, 8, 8).detach(), weight, 4, 8, 1, 1, True),
        "stride": lambda: op.conv2d(x, weight, None, 0, 1, True),
        "20 float32": lambda: op.conv2d(x, weight, torch.zeros(3), 1, 1, True),
        "gradient is float32": lambda: op.conv2d_weight_grad(
            x, leaf(1, 20, 8, 8).detach(), 3, 3, 1, 1, True, torch.float64
        ),
    }.items():
        with pytest.raises(RuntimeError, match=message):
            call()
