"""bias_act: against float64; on the CPU also the kernel's own path, which CUDA alone takes in the networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ops_helpers import LAYOUTS, TOLERANCE, assert_close, in_float64, random_tensor
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.bias_act import ACTIVATIONS, _options, run_kernel

CASES = [((3, 3, 9, 7), [1, 2]), ((2, 1, 4, 5), None), ((2, 20, 8, 8), [1, 1]), ((1, 64, 5, 4), [1])]
PAIRS = [(t, t) for t in TOLERANCE] + [(torch.bfloat16, torch.float32), (torch.float16, torch.float32)]


def kernel(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    negative_slope: float = 0.2,
    dtype: torch.dtype | None = None,
    batches: list[int] | None = None,
) -> list[Tensor]:
    return run_kernel(x, bias, _options(x, bias, activation, negative_slope, dtype, batches))


@pytest.mark.parametrize("call", [kernel, ops.bias_act], ids=["kernel", "public"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "into"), PAIRS, ids=str)
def test_matches_float64(
    device: str, dtype: torch.dtype, into: torch.dtype, layout: str, call: Callable[..., list[Tensor]]
) -> None:
    for activation in ACTIVATIONS:
        for shape, batches in CASES:
            x = random_tensor(shape, dtype, device, layout)
            bias = random_tensor(shape[1:2], dtype if dtype == torch.float64 else torch.float32, device, "nchw")
            y = call(x, bias, activation=activation, dtype=into, batches=batches)
            assert [len(part) for part in y] == (batches or [shape[0]])
            assert all(part.dtype == into and part.is_contiguous(memory_format=LAYOUTS[layout]) for part in y)
            wide, wide_bias = in_float64(x), in_float64(bias)
            with ops.use_reference():
                expected = ops.bias_act(wide, wide_bias, activation=activation)[0]
            limit = max(TOLERANCE[dtype], TOLERANCE[into])
            assert_close(torch.cat(y), expected, limit if call is kernel else 3 * limit, activation)
            grad = torch.randn(shape, dtype=torch.float64).to(into)
            got = torch.autograd.grad(y, (x, bias), grad.to(device).split(batches or shape[0]))
            grad_x, grad_bias = torch.autograd.grad(expected, (wide, wide_bias), grad.double())
            assert got[0].dtype == dtype and got[1].dtype == bias.dtype
            flipped = torch.zeros(())
            if activation in ("relu", "leaky_relu"):  # where rounding decides the sign
                flipped = ((wide + wide_bias[:, None, None]).abs() < 3 * limit).double()
            assert_close(got[0].cpu() * (1 - flipped), grad_x * (1 - flipped), 3 * limit, activation)
            allowed = 3 * limit * (1 + grad_x.abs().sum((0, 2, 3))) + (flipped * grad.abs()).sum((0, 2, 3))
            assert ((got[1].double().cpu() - grad_bias).abs() <= allowed).all(), activation


def test_a_part_without_a_gradient_counts_as_zeros(device: str) -> None:
    x = random_tensor((3, 3, 6, 5), torch.float32, device, "nhwc")
    bias = random_tensor((3,), torch.float32, device, "nchw")
    first, second = kernel(x, bias, activation="tanh", batches=[1, 2])
    got = torch.autograd.grad(second.square().sum(), (x, bias))
    wide, wide_bias = in_float64(x), in_float64(bias)
    expected = (wide + wide_bias[:, None, None]).tanh()[1:].square().sum()
    for a, b in zip(got, torch.autograd.grad(expected, (wide, wide_bias)), strict=True):
        assert_close(a, b, 1e-5)
    assert got[0][0].count_nonzero() == 0 and first.shape == (1, 3, 6, 5)


def test_the_identity_passes_its_gradient_on(device: str) -> None:
    x = random_tensor((1, 2, 3, 4), torch.bfloat16, device, "nhwc")
    bias = random_tensor((2,), torch.bfloat16, device, "nchw")
    (y,) = kernel(x, bias)
    grad = torch.randn_like(y)
    got, grad_bias = torch.autograd.grad(y, (x, bias), grad)
    assert got.data_ptr() == grad.data_ptr()
    assert_close(grad_bias, grad.double().sum((0, 2, 3)), 6e-3)


def test_the_same_bits_twice(device: str) -> None:
    x = random_tensor((2, 3, 65, 64), torch.bfloat16, device, "nhwc")
    bias = random_tensor((3,), torch.float32, device, "nchw")
    y = kernel(x, bias, activation="tanh", dtype=torch.float32, batches=[1, 1])
    grads = [torch.randn_like(part) for part in y]
    first, second = (torch.autograd.grad(y, (x, bias), grads, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(device: str, activation: str) -> None:
    x = random_tensor((2, 3, 4, 5), torch.float64, device, "nhwc")
    bias = random_tensor((3,), torch.float64, device, "nchw")
    torch.autograd.gradcheck(lambda x, b: tuple(kernel(x, b, activation=activation, batches=[1, 1])), (x, bias))
    torch.autograd.gradcheck(lambda x: kernel(x, activation=activation)[0], (x,))


def test_kernel_refuses_a_second_derivative(device: str) -> None:
    x = random_tensor((1, 2, 3, 4), torch.float32, device, "nchw")
    with pytest.raises(UserError, match="use_reference"):
        torch.autograd.grad(kernel(x, activation="tanh")[0].sum(), x, create_graph=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(device: str, layout: str) -> None:
    x = random_tensor((3, 3, 5, 6), torch.bfloat16, device, layout).detach()
    bias = torch.randn(3, device=device)
    torch.library.opcheck(torch.ops.cyclegan_fast.bias_act_fwd, (x, bias, True, 0.0, torch.float32, [1, 2]))
    y, ticket = torch.ops.cyclegan_fast.bias_act_fwd(x, bias, True, 0.0, torch.float32, [1, 2])
    constants = ([1, 2], ticket, True, 0.0, layout == "nhwc", torch.bfloat16, torch.float32, True, True)
    torch.library.opcheck(torch.ops.cyclegan_fast.bias_act_bwd, ([None, torch.randn_like(y[1])], y, *constants))


def test_compiles_without_a_break(device: str) -> None:
    def activated(x: Tensor, bias: Tensor) -> Tensor:
        first, second = kernel(x * 2, bias, activation="leaky_relu", batches=[1, 1])
        return first + second

    x = random_tensor((2, 3, 6, 7), torch.float32, device, "nhwc")
    bias = random_tensor((3,), torch.float32, device, "nchw")
    got, expected = torch.compile(activated, fullgraph=True, backend="aot_eager")(x, bias), activated(x, bias)
    assert torch.equal(got, expected)
    for a, b in zip(*(torch.autograd.grad(v.square().sum(), (x, bias)) for v in (got, expected)), strict=True):
        assert_close(a, b, 1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "tahn"}, "tahn.*did you mean"),
        ({"bias": torch.zeros(2)}, r"bias must be \[3\]"),
        ({"dtype": torch.float16}, "dtype must be torch.float32 as x is"),
        ({"batches": [1, 2]}, "must hold the 2 images"),
        ({"x": torch.zeros(3, 4)}, r"x must have shape \[N, C, H, W\]"),
    ],
)
def test_mistakes_get_one_sentence(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ops.bias_act(**({"x": torch.zeros(2, 3, 4, 5)} | arguments))  # type: ignore[arg-type]
