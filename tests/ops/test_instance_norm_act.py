"""instance_norm_act: values and gradients against float64, in every type, layout and instruction set."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from norm_helpers import STATISTICS, Case, cases, check, padded_shape, random_inputs, run_norm, wider_cases
from ops_helpers import LAYOUTS, TOLERANCE, assert_close, random_tensor
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError

DTYPES = list(TOLERANCE)
LAYOUT_MIXES = [("nchw",) * 3, ("nhwc",) * 3, ("nchw", "nhwc", "nhwc"), ("nhwc", "nchw", "nchw")]  # x, residual, grad


@pytest.mark.parametrize("which", [cases, wider_cases])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_float64(device: str, dtype: torch.dtype, which: Callable) -> None:
    for case, layouts in itertools.product(which(), LAYOUT_MIXES):
        if dtype != torch.float16 or case.mean == 0:  # half has no digits left there
            check(case, dtype, device, layouts)


@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512", "avx512_bf16"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_instruction_set(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, isa: str) -> None:
    if not ops.extension_available():
        pytest.skip(str(ops.extension_error()))
    monkeypatch.setenv("CYCLEGAN_FAST_ISA", isa)
    if ops.build_info()["isa"] != isa:
        pytest.skip(f"this processor has no {isa}")
    for case in [
        Case((2, 37, 5, 19), "leaky_relu", 2, 1),
        Case((1, 70, 8, 33), "relu", 0, 0),
        Case((1, 3, 9, 65)),
        Case((2, 37, 5, 19), "leaky_relu", 2, 1, affine="weight, bias"),
        Case((2, 70, 8, 33), "relu", 0, 0, affine="weight, bias", statistics="own"),
        Case((2, 3, 9, 65), affine="weight, bias", statistics="constant"),
    ]:
        for layouts in LAYOUT_MIXES[:2]:
            check(case, dtype, "cpu", layouts)


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_for_any_thread_count(layout: str, statistics: str) -> None:
    case = Case((2, 70, 40, 40), "relu", 1, 1, affine="weight, bias", statistics=statistics)
    inputs = random_inputs(case, torch.float32, "cpu", (layout, layout))
    grad_y = random_tensor(padded_shape(case, 1), torch.float32, "cpu", layout).detach()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y, grads = run_norm(case, inputs, grad_y)
            results.append([y, *grads.values()])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck_of_the_kernel(device: str, layout: str) -> None:
    for activation, borders, affine in itertools.product(
        ["none", "relu", "leaky_relu"], [(0, None), (3, 1)], ["", "weight", "weight, bias"]
    ):
        case = Case((2, 3, 4, 5), activation, *borders, affine=affine)
        inputs = random_inputs(case, torch.float64, device, (layout, layout))
        gradcheck(lambda **given: ops.instance_norm_act(**given, **case.options()), inputs)  # noqa: B023


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck_of_both_meanings_of_statistics(device: str, layout: str) -> None:
    def of_own(x: Tensor, **others: Tensor) -> Tensor:
        return ops.instance_norm_act(x, statistics=ops.plane_statistics(x), activation="leaky_relu", pad=1, **others)

    own = Case((2, 3, 4, 5), affine="weight, bias", residual=1)
    gradcheck(of_own, random_inputs(own, torch.float64, device, (layout, layout)))
    constant = Case((2, 3, 4, 5), "leaky_relu", 1, 1, affine="weight, bias", statistics="constant")
    inputs = random_inputs(constant, torch.float64, device, (layout, layout))
    gradcheck(lambda **given: ops.instance_norm_act(**given, **constant.options()), inputs)


def gradcheck(function: Callable[..., Tensor], inputs: dict[str, Tensor]) -> None:
    torch.autograd.gradcheck(lambda *values: function(**dict(zip(inputs, values, strict=True))), list(inputs.values()))


def test_parameters_of_another_type_get_gradients_of_their_own(device: str) -> None:
    x = random_tensor((2, 3, 4, 5), torch.bfloat16, device, "nchw")
    for dtype in DTYPES:
        weight, bias = (random_tensor((2, 3, 1, 1), dtype, device, "nchw")[0, :, 0, 0] for _ in range(2))
        y = ops.instance_norm_act(x, weight=weight, bias=bias)
        assert y.dtype == torch.bfloat16
        grads = torch.autograd.grad(y.float().square().sum(), (weight, bias))
        assert all(grad.dtype == dtype and grad.shape == (3,) and grad.abs().min() > 0 for grad in grads)


def test_only_what_wants_a_gradient_gets_one(device: str) -> None:
    x, weight, bias = torch.randn(2, 3, 4, 5, device=device), torch.ones(3, device=device), torch.ones(3, device=device)
    for wanted in (x, weight, bias):
        wanted.requires_grad_()
        ops.instance_norm_act(x, weight=weight, bias=bias).square().sum().backward()
        assert [t.grad is not None for t in (x, weight, bias)] == [t is wanted for t in (x, weight, bias)]
        wanted.requires_grad_(False).grad = None
    assert not ops.instance_norm_act(x, weight=weight, bias=bias).requires_grad


def test_constant_statistics_norm_a_tile_as_its_image(device: str) -> None:
    """A tile normed with its image's statistics is that piece of the image normed."""
    image = torch.randn(2, 3, 12, 10, dtype=torch.float64, device=device)
    statistics = ops.plane_statistics(image)
    tile = ops.instance_norm_act(
        image[:, :, 2:7, 3:9].contiguous(), statistics=statistics, statistics_count=120, constant_statistics=True
    )
    assert_close(tile, ops.instance_norm_act(image)[:, :, 2:7, 3:9], 1e-12)


SUMS = torch.ones(3, 1, 2)


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
        ({"weight": torch.ones(3)}, r"weight must be \[2\] floating-point numbers on cpu, got torch.float32 \[3\]"),
        ({"bias": torch.ones(2, dtype=torch.int64)}, r"bias must be \[2\] floating-point"),
        ({"bias": torch.ones(2, device="meta")}, "bias must be .* on meta"),
        ({"statistics": torch.ones(3, 2, 1)}, r"statistics must be torch.float32 \[3, 1, 2\] on cpu"),
        ({"statistics": SUMS.double()}, "statistics must be torch.float32"),
        ({"statistics": SUMS.clone().requires_grad_()}, "statistics get no gradient"),
        ({"statistics": SUMS, "statistics_count": 30}, "pass constant_statistics=True"),
        ({"statistics": SUMS, "statistics_count": 0, "constant_statistics": True}, "must be above 0, got 0"),
        ({"statistics_count": 20}, "need statistics"),
        ({"constant_statistics": True}, "need statistics"),
    ],
)
def test_mistakes_get_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ops.instance_norm_act(**{"x": torch.ones(1, 2, 4, 5), **arguments})


def test_the_operator_itself_refuses_what_would_be_read_wrongly(device: str) -> None:
    x, fwd = torch.randn(1, 2, 4, 5, device=device), torch.ops.cyclegan_fast.instance_norm_act_fwd
    two, three, sums = (torch.ones(shape, device=device) for shape in ((2,), (3,), (3, 1, 2)))
    for weight, statistics, count, message in [
        (three, None, None, r"weight must have shape \[2\]"),
        (two.double(), None, None, "weight must have the type of the sums"),
        (two, sums[:2], None, r"statistics must have shape \[3, 1, 2\]"),
        (two, sums, 0.0, "statistics_count must be above 0"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            fwd(x, None, weight, None, statistics, count, True, 0, 0.2, 1e-5, 0)


def test_parameters_of_any_strides(device: str) -> None:
    x = torch.randn(2, 3, 4, 5, device=device)
    weight, statistics = torch.randn(3, 2, device=device), ops.plane_statistics(x).permute(2, 1, 0).contiguous()
    got = ops.instance_norm_act(x, weight=weight[:, 1], statistics=statistics.permute(2, 1, 0))
    assert_close(got, ops.instance_norm_act(x) * weight[None, :, 1, None, None], 4e-6)


def test_other_strides_are_refused(device: str) -> None:
    with pytest.raises(UserError, match="x must be contiguous or channels_last"):
        ops.instance_norm_act(torch.randn(2, 3, 4, 6, device=device)[:, :, :, ::2])
    with pytest.raises(UserError, match="float32, bfloat16, float16 or float64"):
        ops.instance_norm_act(torch.ones(2, 3, 4, 6, device=device, dtype=torch.int32))


def test_a_broadcast_gradient_is_copied(device: str) -> None:
    x = random_tensor((1, 3, 4, 5), torch.float32, device, "nhwc")
    (grad,) = torch.autograd.grad(ops.instance_norm_act(x, pad=1).sum(), x)
    y, grad_y = ops.instance_norm_act(x, pad=1), torch.ones(1, 3, 6, 7, device=device)
    assert torch.equal(grad, torch.autograd.grad(y, x, grad_y)[0])


# On a GPU, sizes choose how the kernel runs: whole planes in registers, planes in pieces, or the write pass alone.
SIZES = [(64, 31, 31), (256, 64, 64), (64, 256, 256)]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_regime_matches_float64(size: tuple[int, int, int], layout: str, dtype: torch.dtype) -> None:
    if not (torch.cuda.is_available() and ops.extension_available() and ops.build_info()["cuda_archs"]):
        pytest.skip("no CUDA device, or the extension was built without CUDA")
    for batch, statistics in itertools.product((1, 8), STATISTICS):
        case = Case((batch, *size), "leaky_relu", 1, 1, affine="weight, bias", statistics=statistics)
        check(case, dtype, "cuda", (layout,) * 3, where="cuda")
        check(Case((batch, *size), "relu", statistics=statistics), dtype, "cuda", (layout,) * 3, where="cuda")
