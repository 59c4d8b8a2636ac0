"""instance_norm_act: values and gradients against float64, in every type, layout and instruction set."""

from __future__ import annotations

import itertools

import pytest
import torch
from ops_helpers import (
    LAYOUTS,
    TOLERANCE,
    Case,
    assert_close,
    cases,
    padded_shape,
    random_tensor,
    run_norm,
    run_reference,
)

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.layout import memory_format_of

DTYPES = list(TOLERANCE)
LAYOUT_MIXES = [("nchw",) * 3, ("nhwc",) * 3, ("nchw", "nhwc", "nhwc"), ("nhwc", "nchw", "nchw")]  # x, residual, grad


def check(case: Case, dtype: torch.dtype, device: str, layouts: tuple[str, str, str]) -> None:
    x_layout, residual_layout, grad_layout = layouts
    x = random_tensor(case.shape, dtype, device, x_layout, case.mean)
    residual = None
    if case.residual is not None:
        residual = random_tensor(padded_shape(case, case.residual), dtype, device, residual_layout)
    grad_y = random_tensor(padded_shape(case, case.pad), dtype, device, grad_layout).detach()
    got, got_grads = run_norm(case, x, residual, grad_y)
    expected, expected_grads = run_reference(case, x, residual, grad_y)

    assert got.dtype == dtype and got.is_contiguous(memory_format=memory_format_of(x))
    # The mean itself is rounded; gradients grow with 1 / std, which is large where a plane has one pixel.
    limit = TOLERANCE[dtype] + abs(case.mean) * (4e-16 if dtype == torch.float64 else 2.4e-7)
    scale = 1 if case.shape[2] * case.shape[3] > 4 else 1e3
    assert_close(got, expected, limit, f"{case}: y")
    for name, one, other in zip(("grad_x", "grad_residual"), got_grads, expected_grads, strict=False):
        assert_close(one, other, limit * scale, f"{case}: {name}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_float64(device: str, dtype: torch.dtype) -> None:
    for case, layouts in itertools.product(cases(), LAYOUT_MIXES):
        if dtype != torch.float16 or case.mean == 0:  # half has no digits left there
            check(case, dtype, device, layouts)


@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_instruction_set(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, isa: str) -> None:
    if not ops.extension_available():
        pytest.skip(str(ops.extension_error()))
    monkeypatch.setenv("CYCLEGAN_FAST_ISA", isa)
    if ops.build_info()["isa"] != isa:
        pytest.skip(f"this processor has no {isa}")
    for case in [Case((2, 37, 5, 19), "leaky_relu", 2, 1), Case((1, 70, 8, 33), "relu", 0, 0), Case((1, 3, 9, 65))]:
        for layouts in LAYOUT_MIXES[:2]:
            check(case, dtype, "cpu", layouts)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_for_any_thread_count(layout: str) -> None:
    case = Case((2, 70, 40, 40), "relu", 1, 1)
    x, r = (random_tensor(padded_shape(case, b), torch.float32, "cpu", layout) for b in (0, 1))
    grad_y = random_tensor(padded_shape(case, 1), torch.float32, "cpu", layout).detach()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y, grads = run_norm(case, x, r, grad_y)
            results.append([y, *grads])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck_of_the_kernel(device: str, layout: str) -> None:
    x = random_tensor((2, 3, 4, 5), torch.float64, device, layout)
    r = random_tensor((2, 3, 6, 7), torch.float64, device, layout)
    for activation, pad in [("none", 0), ("relu", 1), ("leaky_relu", 3)]:
        torch.autograd.gradcheck(lambda x, r: ops.instance_norm_act(x, r, activation=activation, pad=pad), (x, r))  # noqa: B023
        torch.autograd.gradcheck(lambda x: ops.instance_norm_act(x, activation=activation, pad=pad), (x,))  # noqa: B023


def test_reference_is_twice_differentiable() -> None:
    x = random_tensor((1, 2, 3, 4), torch.float64, "cpu", "nchw")
    with ops.use_reference():
        torch.autograd.gradgradcheck(lambda x: ops.instance_norm_act(x, activation="leaky_relu", pad=1), (x,))


def test_kernel_refuses_a_second_derivative(device: str) -> None:
    x = random_tensor((1, 2, 3, 4), torch.float32, device, "nchw")
    (grad,) = torch.autograd.grad(ops.instance_norm_act(x).square().sum(), x, create_graph=True)
    with pytest.raises(UserError, match="use_reference"):
        grad.sum().backward()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(device: str, layout: str) -> None:
    x = random_tensor((2, 3, 5, 6), torch.float32, device, layout)
    r = random_tensor((2, 3, 7, 8), torch.float32, device, layout)
    fwd, bwd = torch.ops.cyclegan_fast.instance_norm_act_fwd, torch.ops.cyclegan_fast.instance_norm_act_bwd
    torch.library.opcheck(fwd, (x, r, 1, 0.2, 1e-5, 1))
    torch.library.opcheck(fwd, (x, None, 2, 0.2, 1e-5, 0))
    y, mean, rstd = (t.detach() for t in fwd(x, r, 1, 0.2, 1e-5, 1))
    torch.library.opcheck(bwd, (torch.randn_like(y), x.detach(), mean, rstd, 1, 0.2, 1, 1, True))
    torch.library.opcheck(bwd, (torch.randn_like(y), x.detach(), mean, rstd, 1, 0.2, 1, 0, False))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiles_without_a_break(device: str, layout: str) -> None:
    case = Case((2, 3, 6, 5), "leaky_relu", 2, 1)
    x = random_tensor(case.shape, torch.float32, device, layout)
    r = random_tensor(padded_shape(case, 1), torch.float32, device, layout)

    def two_blocks(x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        y = ops.instance_norm_act(x, r, activation="leaky_relu", pad=2)
        return ops.l1_mean(ops.instance_norm_act(y * 2, activation="relu"), torch.ones_like(y))

    compiled = torch.compile(two_blocks, fullgraph=True, backend="aot_eager")
    expected, got = two_blocks(x, r), compiled(x, r)
    assert_close(got, expected, 1e-6)
    expected_grads, got_grads = (torch.autograd.grad(out, (x, r)) for out in (expected, got))
    for one, other in zip(got_grads, expected_grads, strict=True):
        assert_close(one, other, 1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "rely"}, "did you mean 'relu'"),
        ({"pad": 4}, "less than min"),
        ({"pad": -1}, "at least 0"),
        ({"residual": torch.ones(1, 2, 4, 6)}, r"residual must have shape \[1, 2, 4, 5\]"),
        ({"residual": torch.ones(1, 2, 5, 6)}, "residual must have shape"),
        ({"residual": torch.ones(2, 4, 5)}, "residual must have shape"),
        ({"residual": torch.ones(1, 2, 4, 5, dtype=torch.float64)}, "residual must be torch.float32"),
        ({"x": torch.ones(2, 4, 5)}, "x must have shape"),
    ],
)
def test_mistakes_get_one_sentence(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ops.instance_norm_act(**{"x": torch.ones(1, 2, 4, 5), **arguments})


def test_other_strides_are_refused(device: str) -> None:
    with pytest.raises(RuntimeError, match="x must be contiguous or channels_last"):
        ops.instance_norm_act(torch.randn(2, 3, 4, 6, device=device)[:, :, :, ::2])
    with pytest.raises(RuntimeError, match="float32, bfloat16, float16 or float64"):
        ops.instance_norm_act(torch.ones(2, 3, 4, 6, device=device, dtype=torch.int32))


def test_a_broadcast_gradient_is_copied(device: str) -> None:
    x = random_tensor((1, 3, 4, 5), torch.float32, device, "nhwc")
    (grad,) = torch.autograd.grad(ops.instance_norm_act(x, pad=1).sum(), x)
    y, grad_y = ops.instance_norm_act(x, pad=1), torch.ones(1, 3, 6, 7, device=device)
    assert torch.equal(grad, torch.autograd.grad(y, x, grad_y)[0])


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 64, 64, 64), (1, 256, 32, 32), (2, 3, 33, 47)])
def test_capture_and_replay_equal_eager(layout: str, shape: tuple[int, ...]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    case = Case(shape, "relu", 1, 1)
    x = random_tensor(shape, torch.bfloat16, "cuda", layout)
    r = random_tensor(padded_shape(case, 1), torch.bfloat16, "cuda", layout)
    grad_y = random_tensor(padded_shape(case, 1), torch.bfloat16, "cuda", layout).detach()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run_norm(case, x, r, grad_y)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, grads = run_norm(case, x, r, grad_y)
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    eager_y, eager_grads = run_norm(case, x, r, grad_y)
    assert torch.equal(y, eager_y)
    assert all(torch.equal(a, b) for a, b in zip(grads, eager_grads, strict=True))
