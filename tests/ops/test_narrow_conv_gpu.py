"""The narrow convolutions on a GPU: against float64, twice the same bits, in graphs, compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.ops.narrow_conv import fits_narrow

pytestmark = pytest.mark.gpu

Case = tuple[int, int, int, int, int, int, int, int]  # N, C, K, H, W, kernel size, stride, pad
CASES: dict[str, Case] = {
    "stem": (2, 3, 64, 262, 262, 7, 1, 0),
    "head": (2, 64, 3, 262, 262, 7, 1, 0),
    "discriminator": (2, 3, 64, 256, 256, 4, 2, 1),
    "one channel": (1, 1, 16, 33, 70, 7, 1, 3),
    "eight channels": (3, 8, 64, 31, 29, 7, 2, 3),
    "128 channels": (1, 128, 2, 40, 17, 5, 1, 4),
    "cut short": (1, 5, 24, 9, 8, 3, 2, 1),
    "no images": (0, 3, 64, 16, 16, 7, 1, 0),
}


@pytest.fixture(autouse=True)
def narrow() -> Iterator[None]:
    if not ops.build_info().get("cuda_archs"):
        pytest.skip("the extension was built without CUDA")
    print("seed", torch.seed())
    with ops.narrow_convolutions(True):
        yield


def inputs_of(name: str, dtype: torch.dtype, weights: torch.dtype = torch.float32) -> tuple[list[Tensor], int, int]:
    """x and weight, rounded to `dtype` so that the kernels round nothing; stride and pad."""
    n, c, k, h, w, kernel, stride, pad = CASES[name]
    x, weight = torch.randn(n, c, h, w, device="cuda"), torch.randn(k, c, kernel, kernel, device="cuda")
    tensors = [(x, dtype), (weight, weights)]
    return (
        [t.to(dtype).to(kind, memory_format=torch.channels_last).requires_grad_() for t, kind in tensors],
        stride,
        pad,
    )


def results(f: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The output and the gradients of all inputs."""
    y = f(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad.to(y))]


def assert_close(got: list[Tensor], expected: list[Tensor], limit: float) -> None:
    """Each within `limit` of its root mean square, beside its own rounding."""
    for name, a, b in zip(("y", "x", "weight"), got, expected, strict=True):
        assert a.shape == b.shape, name
        if b.numel() == 0:
            continue
        assert torch.isfinite(a).all(), name
        size = (b.square().mean().sqrt() + b.abs()).clamp_min(1e-12)
        error = (a.double() - b).abs() / size
        rounding = torch.finfo(a.dtype).eps
        assert error.max().item() <= limit + rounding, f"{name}: {error.max().item():.2e}"


@pytest.mark.parametrize("weights", ["float32", "16 bits"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_equals_float64(name: str, dtype: torch.dtype, weights: str) -> None:
    inputs, stride, pad = inputs_of(name, dtype, dtype if weights == "16 bits" else torch.float32)
    exact_inputs = [t.detach().double().contiguous().requires_grad_() for t in inputs]
    grad = torch.randn_like(ops.conv2d(*inputs, stride=stride, pad=pad)).detach()
    exact = results(lambda x, w: F.conv2d(x, w, None, stride, pad), exact_inputs, grad)
    got = results(lambda x, w: ops.conv2d(x, w, stride=stride, pad=pad), inputs, grad)
    again = results(lambda x, w: ops.conv2d(x, w, stride=stride, pad=pad), inputs, grad)
    assert all(a.equal(b) for a, b in zip(got, again, strict=True))
    assert [t.dtype for t in got] == [dtype, dtype, inputs[1].dtype]
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in got)
    assert_close(got, exact, 1e-5)


@pytest.mark.parametrize("name", ["head", "discriminator"])
def test_bias_under_autocast(name: str) -> None:
    (x, weight), stride, pad = inputs_of(name, torch.bfloat16)
    bias = torch.randn(weight.shape[0], device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        y = ops.conv2d(x.float(), weight, bias, stride=stride, pad=pad)
    assert y.dtype == torch.bfloat16
    exact = F.conv2d(x.double(), weight.double(), bias.double(), stride, pad)
    assert ((y.double() - exact).norm() / exact.norm()).item() <= 5e-3
    (grad,) = torch.autograd.grad(y.float().sum(), bias)  # of a constant: the number of pixels
    assert grad.dtype == torch.float32
    assert torch.allclose(grad, torch.full_like(grad, y.numel() / len(bias)), rtol=1e-2)


@pytest.mark.parametrize("name", ["discriminator", "128 channels"])
def test_second_derivatives(name: str) -> None:
    def slopes(f: Callable[..., Tensor], x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        y = f(x, weight).float() if x.dtype == torch.bfloat16 else f(x, weight)
        first = torch.autograd.grad(y.square().sum(), (x, weight), create_graph=True)
        return torch.autograd.grad(sum(g.to(y.dtype).square().sum() for g in first), (x, weight))

    (x, weight), stride, pad = inputs_of(name, torch.bfloat16)
    weight = (weight.detach() / 16).requires_grad_()
    got = slopes(lambda x, w: ops.conv2d(x, w, stride=stride, pad=pad), x, weight)
    exact = slopes(
        lambda x, w: F.conv2d(x, w, None, stride, pad),
        *(t.detach().double().contiguous().requires_grad_() for t in (x, weight)),
    )
    for a, b in zip(got, exact, strict=True):
        assert ((a.double() - b).norm() / b.norm()).item() <= 2e-2


def test_a_gradient_that_is_not_aligned() -> None:
    (x, weight), stride, pad = inputs_of("stem", torch.bfloat16)
    y = ops.conv2d(x, weight, stride=stride, pad=pad)
    grad = torch.randn_like(y)
    shifted = torch.empty(grad.numel() + 1, device="cuda", dtype=grad.dtype)[1:].as_strided(
        grad.shape, grad.stride(), 1
    )
    shifted.copy_(grad)
    assert shifted.data_ptr() % 16
    expected = torch.autograd.grad(y, (x, weight), grad, retain_graph=True)
    got = torch.autograd.grad(y, (x, weight), shifted)
    assert all(a.equal(b) for a, b in zip(got, expected, strict=True))


def test_inside_a_graph_the_bits_are_the_same() -> None:
    (x, weight), stride, pad = inputs_of("discriminator", torch.bfloat16)
    grad = torch.randn_like(ops.conv2d(x, weight, stride=stride, pad=pad))

    def call() -> list[Tensor]:
        return results(lambda x, w: ops.conv2d(x, w, stride=stride, pad=pad), [x, weight], grad)

    expected = call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for t in captured:
        t.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert all(a.equal(b) for a, b in zip(captured, expected, strict=True))


def test_opcheck() -> None:
    op = torch.ops.cyclegan_fast
    (x, weight), stride, pad = inputs_of("cut short", torch.bfloat16)
    y = ops.conv2d(x, weight, stride=stride, pad=pad).detach().requires_grad_()
    for function, arguments in (
        (op.conv2d, (x, weight, None, stride, pad, False)),
        (op.conv2d_input_grad, (y, weight, *x.shape[2:], stride, pad, False)),
        (op.conv2d_weight_grad, (x, y, *weight.shape[2:], stride, pad, False, torch.float32)),
    ):
        torch.library.opcheck(
            function, arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
        )


def test_compiled() -> None:
    (x, weight), stride, pad = inputs_of("discriminator", torch.bfloat16)

    def f(x: Tensor, weight: Tensor) -> Tensor:
        return ops.conv2d(x, weight, stride=stride, pad=pad)

    grad = torch.randn_like(f(x, weight))
    eager = results(f, [x, weight], grad)
    compiled = results(torch.compile(f, dynamic=False, fullgraph=True), [x, weight], grad)
    assert all(a.equal(b) for a, b in zip(compiled, eager, strict=True))


@pytest.mark.parametrize("wide_input", [False, True])
def test_what_python_chooses_the_kernels_take(wide_input: bool) -> None:
    """Every size that `fits_narrow` names; a launch that is refused raises."""
    for narrow in range(1, 9):
        for wide in (16, 64, 96, 128):
            for kernel, stride in ((3, 1), (4, 2), (7, 1), (7, 2)):
                k, c = (narrow, wide) if wide_input else (wide, narrow)
                if not fits_narrow(k, c, kernel, kernel, stride, 1):
                    continue
                x, weight = (
                    torch.ones(shape, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
                    for shape in ((1, c, 9, 9), (k, c, kernel, kernel))
                )
                y = ops.conv2d(x.requires_grad_(), weight.requires_grad_(), stride=stride, pad=1)
                torch.autograd.grad(y, (x, weight), torch.ones_like(y))
