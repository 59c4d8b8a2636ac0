"""reflect_pad: against torch's own; several batches as one; free of atomics."""

from __future__ import annotations

import pytest
import torch
from ops_helpers import LAYOUTS, TOLERANCE, assert_close, in_float64, random_tensor
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_matches_torch(device: str, dtype: torch.dtype, layout: str) -> None:
    for shape, pad in [((2, 3, 5, 7), 0), ((2, 3, 5, 7), 1), ((1, 4, 4, 9), 3), ((0, 3, 4, 4), 2)]:
        x = random_tensor(shape, dtype, device, layout)
        y = ops.reflect_pad(x, pad)
        x64 = x.detach().double().cpu().contiguous().requires_grad_()
        expected = torch.nn.functional.pad(x64, (pad,) * 4, mode="reflect") if pad else x64
        assert torch.equal(y.double().cpu(), expected)
        grad = torch.randn(expected.shape, dtype=torch.float64).to(dtype)
        (got,) = torch.autograd.grad(y, x, grad.to(device), allow_unused=False)
        (wanted,) = torch.autograd.grad(expected, x64, grad.double())
        assert_close(got, wanted, 4 * TOLERANCE[dtype])


PAIRS = [(t, t) for t in TOLERANCE] + [(torch.float32, torch.bfloat16), (torch.float32, torch.float16)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "into"), PAIRS, ids=str)
def test_batches_become_one_padded_and_converted(
    device: str, dtype: torch.dtype, into: torch.dtype, layout: str
) -> None:
    """The second one needs no gradient and lies in the other layout."""
    other = "nhwc" if layout == "nchw" else "nchw"
    for (c, h, w), pad in [((3, 9, 7), 3), ((1, 4, 4), 0), ((16, 5, 8), 2)]:
        batches = [random_tensor((n, c, h, w), dtype, device, layout) for n in (2, 1, 3)]
        batches[1] = batches[1].detach().contiguous(memory_format=LAYOUTS[other])
        y = ops.reflect_pad(batches, pad, dtype=into)
        exact = [in_float64(batch) for batch in batches]
        expected = torch.nn.functional.pad(torch.cat(exact), (pad,) * 4, mode="reflect")
        assert y.dtype == into and y.is_contiguous(memory_format=LAYOUTS[layout])
        assert torch.equal(y.double().cpu(), expected.to(into).double())
        grad = torch.randn(expected.shape, dtype=torch.float64).to(into)
        got = torch.autograd.grad(y, batches[::2], grad.to(device))
        wanted = torch.autograd.grad(expected, exact[::2], grad.double())
        for a, b in zip(got, wanted, strict=True):
            assert a.dtype == dtype
            assert_close(a, b, 4 * TOLERANCE[dtype])


def test_any_number_of_batches_of_any_type(device: str) -> None:
    batches = [random_tensor((1, 2, 4, 5), torch.float16, device, "nhwc") for _ in range(11)]
    y = ops.reflect_pad(batches, 1, dtype=torch.float64)
    assert y.shape == (11, 2, 6, 7) and y.dtype == torch.float64
    assert torch.equal(y, torch.nn.functional.pad(torch.cat(batches).double(), (1,) * 4, mode="reflect"))
    assert all(g.dtype == torch.float16 for g in torch.autograd.grad(y.sum(), batches))


def test_nothing_to_do_is_no_copy(device: str) -> None:
    x = random_tensor((1, 3, 4, 4), torch.float32, device, "nhwc")
    assert ops.reflect_pad([x], 0, dtype=torch.float32) is x


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck(device: str, layout: str) -> None:
    a, b = (random_tensor((n, 3, 4, 5), torch.float64, device, layout) for n in (1, 2))
    torch.autograd.gradcheck(lambda a, b: ops.reflect_pad([a, b], 3), (a, b))
    on_cpu = [
        x.detach().cpu().requires_grad_() for x in (a, b)
    ]  # on CUDA torch's own gradient differs from call to call
    with ops.use_reference():
        torch.autograd.gradgradcheck(lambda a, b: ops.reflect_pad([a, b], 2).square(), on_cpu)


def test_kernel_refuses_a_second_derivative(device: str) -> None:
    x = random_tensor((1, 2, 3, 4), torch.float32, device, "nchw")
    with pytest.raises(UserError, match="use_reference"):
        torch.autograd.grad(ops.reflect_pad(x, 1).square().sum(), x, create_graph=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(device: str, layout: str) -> None:
    x = [random_tensor((n, 3, 5, 6), torch.float32, device, layout).detach() for n in (1, 2)]
    torch.library.opcheck(torch.ops.cyclegan_fast.reflect_pad_fwd, (x, 2, torch.bfloat16))
    grad = random_tensor((3, 3, 9, 10), torch.bfloat16, device, layout).detach()
    arguments = (grad, 2, [1, 2], [False, True], torch.float32)
    torch.library.opcheck(torch.ops.cyclegan_fast.reflect_pad_bwd, arguments)


def test_compiles_without_a_break(device: str) -> None:
    def padded(a: Tensor, b: Tensor) -> Tensor:
        return ops.reflect_pad([a, b * 2], 2, dtype=torch.bfloat16).float()

    a, b = (random_tensor((1, 3, 6, 7), torch.float32, device, "nhwc") for _ in range(2))
    got, expected = torch.compile(padded, fullgraph=True, backend="aot_eager")(a, b), padded(a, b)
    assert torch.equal(got, expected)
    for x, y in zip(*(torch.autograd.grad(v.square().sum(), (a, b)) for v in (got, expected)), strict=True):
        assert torch.equal(x, y)


def test_deterministic_algorithms_are_content(device: str) -> None:
    x = random_tensor((1, 3, 8, 8), torch.float32, device, "nchw")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        ops.reflect_pad(x, 2).sum().backward()
    finally:
        torch.use_deterministic_algorithms(before)
    assert x.grad is not None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_for_any_thread_count(layout: str) -> None:
    x = random_tensor((2, 33, 40, 41), torch.float32, "cpu", layout)
    grad = random_tensor((2, 33, 46, 47), torch.float32, "cpu", layout).detach()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = ops.reflect_pad(x, 3)
            results.append((y, *torch.autograd.grad(y, x, grad)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_mistakes_get_one_sentence() -> None:
    with pytest.raises(UserError, match="less than min"):
        ops.reflect_pad(torch.ones(1, 1, 3, 9), 3)
    with pytest.raises(UserError, match=r"x must have shape \[N, C, H, W\]"):
        ops.reflect_pad(torch.ones(3, 9), 1)
    with pytest.raises(UserError, match="at least one batch"):
        ops.reflect_pad([], 1)
    with pytest.raises(UserError, match=r"all batches must be torch.float32 \[N, 1, 3, 9\]"):
        ops.reflect_pad([torch.ones(1, 1, 3, 9), torch.ones(1, 1, 9, 3)], 1)
