"""l1_mean: value and gradients against float64."""

from __future__ import annotations

import pytest
import torch
from ops_helpers import LAYOUTS, TOLERANCE, assert_close, in_float64, random_tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 16, 8, 8), (2, 3, 65, 63), (1, 3, 150, 151)]


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("layouts", [("nchw", "nchw"), ("nhwc", "nhwc"), ("nhwc", "nchw"), ("nchw", "nhwc")])
def test_matches_float64(device: str, dtype: torch.dtype, layouts: tuple[str, str]) -> None:
    for shape in SHAPES:
        a, b = (random_tensor(shape, dtype, device, layout) for layout in layouts)
        value = ops.l1_mean(a, b)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        grads = torch.autograd.grad(value * 3, (a, b))
        a64, b64 = in_float64(a), in_float64(b)
        expected = torch.nn.functional.l1_loss(a64, b64)
        assert_close(value, expected, 1e-13 if dtype == torch.float64 else 1e-6)
        for got, wanted in zip(grads, torch.autograd.grad(expected * 3, (a64, b64)), strict=True):
            assert got.dtype == dtype
            assert_close(got * a.numel(), wanted * a.numel(), TOLERANCE[dtype])
        assert torch.equal(value.detach(), ops.l1_mean(a.detach(), b.detach()))  # without the sign: the same bits


@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512"])
def test_each_instruction_set(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("CYCLEGAN_FAST_ISA", isa)
    if not ops.extension_available() or ops.build_info()["isa"] != isa:
        pytest.skip(f"no extension, or this processor has no {isa}")
    for dtype in TOLERANCE:
        test_matches_float64("cpu", dtype, ("nhwc", "nchw"))


def test_equal_values_have_no_gradient(device: str) -> None:
    a = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device, requires_grad=True)
    b = torch.tensor([1.0, 5.0, 0.0, 4.0], device=device)
    ops.l1_mean(a, b).backward()
    assert a.grad.tolist() == [0.0, -0.25, 0.25, 0.0]


def test_two_types_meet_in_the_wider(device: str) -> None:
    a = random_tensor((2, 3, 4, 5), torch.bfloat16, device, "nchw")
    b = random_tensor((2, 3, 4, 5), torch.float32, device, "nchw")
    value = ops.l1_mean(a, b)
    value.backward()
    assert_close(value, (a.double() - b.double()).abs().mean(), 1e-6)
    assert a.grad.dtype == torch.bfloat16 and b.grad.dtype == torch.float32


def test_same_bits_for_any_thread_count() -> None:
    a, b = (random_tensor((1, 3, 200, 201), torch.float32, "cpu", "nchw") for _ in range(2))
    before, values = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            values.append(ops.l1_mean(a, b).item())
    finally:
        torch.set_num_threads(before)
    assert len(set(values)) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_and_gradcheck(device: str, layout: str) -> None:
    a, b = (random_tensor((2, 3, 5, 6), torch.float64, device, layout) for _ in range(2))
    fwd, bwd = torch.ops.cyclegan_fast.l1_mean_fwd, torch.ops.cyclegan_fast.l1_mean_bwd
    torch.library.opcheck(fwd, (a, b, True))
    torch.library.opcheck(fwd, (a.detach(), b.detach(), False))
    value, sign = fwd(a.detach(), b.detach(), True)
    torch.library.opcheck(bwd, (value, sign, torch.float64))
    torch.autograd.gradcheck(ops.l1_mean, (a, b))


def test_mistakes_get_one_sentence() -> None:
    with pytest.raises(UserError, match="b must have the shape"):
        ops.l1_mean(torch.ones(2, 3), torch.ones(3, 2))


def test_kernel_refuses_other_strides(device: str) -> None:
    with pytest.raises(RuntimeError, match="a must be contiguous or channels_last"):
        ops.l1_mean(torch.ones(4, 6, device=device).t(), torch.ones(6, 4, device=device))


def test_empty_is_nan_as_in_torch(device: str) -> None:
    assert ops.l1_mean(torch.ones(0, 3, device=device), torch.ones(0, 3, device=device)).isnan()


@pytest.mark.gpu
def test_capture_and_replay_equal_eager() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    a, b = (random_tensor((4, 3, 256, 256), torch.float32, "cuda", "nchw") for _ in range(2))
    ops.l1_mean(a, b)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = ops.l1_mean(a, b)
        grads = torch.autograd.grad(value, (a, b))
    with torch.no_grad():
        a.copy_(torch.randn_like(a))
    graph.replay()
    eager = ops.l1_mean(a, b)
    assert torch.equal(value, eager)
    assert all(torch.equal(x, y) for x, y in zip(grads, torch.autograd.grad(eager, (a, b)), strict=True))
