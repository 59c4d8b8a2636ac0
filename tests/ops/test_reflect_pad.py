"""reflect_pad: against torch's own, and free of atomics."""

from __future__ import annotations

import pytest
import torch
from ops_helpers import LAYOUTS, TOLERANCE, assert_close, random_tensor

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
