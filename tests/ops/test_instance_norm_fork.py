"""instance_norm_act_fork: one output for two branches, whose gradients are added inside the backward kernel."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from norm_helpers import Case, padded_shape, random_inputs
from ops_helpers import LAYOUTS, TOLERANCE, assert_close, in_float64, random_tensor
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.layout import memory_format_of, stat_dtype

DTYPES = list(TOLERANCE)
BRANCHES = [(True, True), (True, False), (False, True)]  # whether each output gets a gradient
CASES = [
    Case((2, 5, 7, 9), "leaky_relu", 1, 1),
    Case((1, 16, 8, 8), "relu", 2, None),
    Case((1, 37, 4, 17), "none", 0, 1, affine="weight, bias"),
    Case((2, 3, 5, 4), "none", 0, 0),
    Case((1, 130, 9, 8), "leaky_relu", 3, 2, affine="bias"),
    Case((1, 1, 3, 1500), "relu", 2, 0),
]


def gradients(
    case: Case, inputs: dict[str, Tensor], grads: tuple[Tensor | None, ...]
) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
    """Both outputs, and the gradients of the inputs where each output has the given one, or none."""
    outputs = ops.instance_norm_act_fork(**inputs, activation=case.activation, pad=case.pad)
    used = [(y, grad) for y, grad in zip(outputs, grads, strict=True) if grad is not None]
    found = torch.autograd.grad([y for y, _ in used], list(inputs.values()), [grad for _, grad in used])
    return outputs, dict(zip(inputs, found, strict=True))


@pytest.mark.parametrize("branches", BRANCHES, ids=["both", "conv", "residual"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_float64(device: str, dtype: torch.dtype, layout: str, branches: tuple[bool, bool]) -> None:
    for case, other in itertools.product(CASES, LAYOUTS):
        inputs = random_inputs(case, dtype, device, (layout, layout))
        shapes = (padded_shape(case, case.pad), case.shape)
        grads = tuple(
            random_tensor(shape, dtype, device, other).detach() if used else None
            for shape, used in zip(shapes, branches, strict=True)
        )
        (y, inside), found = gradients(case, inputs, grads)
        assert y.is_contiguous(memory_format=memory_format_of(inputs["x"]))
        assert torch.equal(inside, y[..., case.pad : y.shape[2] - case.pad, case.pad : y.shape[3] - case.pad])
        assert torch.equal(y, ops.instance_norm_act(**inputs, activation=case.activation, pad=case.pad))
        with ops.use_reference():
            wide = {name: in_float64(tensor) for name, tensor in inputs.items()}
            wide_grads = tuple(None if grad is None else in_float64(grad) for grad in grads)
            expected, expected_grads = gradients(case, wide, wide_grads)
        for got, exact in zip((y, inside), expected, strict=True):
            assert_close(got, exact, TOLERANCE[dtype], f"{case}: an output")
        spread = TOLERANCE[stat_dtype(dtype)] * (2 * y.numel() / y.shape[1]) ** 0.5
        for name, grad in found.items():
            limit = TOLERANCE[dtype] + (spread if name in ("weight", "bias") else 0)
            assert grad.dtype == dtype
            assert_close(grad, expected_grads[name], limit, f"{case}: the gradient of {name}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck(device: str, layout: str) -> None:
    for case in (Case((2, 3, 4, 5), "leaky_relu", 3, 1, affine="weight, bias"), Case((2, 3, 4, 5), residual=0)):
        inputs = random_inputs(case, torch.float64, device, (layout, layout))

        def fork(*values: Tensor) -> tuple[Tensor, Tensor]:
            given = dict(zip(inputs, values, strict=True))  # noqa: B023
            return ops.instance_norm_act_fork(**given, activation=case.activation, pad=case.pad)  # noqa: B023

        torch.autograd.gradcheck(fork, list(inputs.values()))


def three_blocks(x: Tensor, r: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y, inside = ops.instance_norm_act_fork(x, r, weight=weight, bias=bias, activation="leaky_relu", pad=1)
    h = ops.instance_norm_act(y[:, :, 1:-1, 1:-1] * y[:, :, 2:, 2:], activation="relu")
    y, inside = ops.instance_norm_act_fork(h, inside, pad=2)
    h = ops.instance_norm_act(y[:, :, 2:-2, 2:-2] * y[:, :, 4:, 4:])
    y, _ = ops.instance_norm_act_fork(h.contiguous(), inside)
    return ops.l1_mean(y, torch.full_like(y, 3.0))


def block_inputs(device: str, layout: str) -> list[Tensor]:
    case = Case((2, 8, 6, 5), residual=1, affine="weight, bias")
    return list(random_inputs(case, torch.float32, device, (layout, layout)).values())


class Launched(TorchDispatchMode):
    """The names of the operators that are issued while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.__name__.split(".")[0])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_backward_pass_is_one_operator_and_copies_nothing(device: str, layout: str) -> None:
    if not ops.extension_available():
        pytest.skip(str(ops.extension_error()))
    x, x2 = (random_tensor((2, 8, 6, 5), torch.float32, device, layout) for _ in range(2))
    y, inside = ops.instance_norm_act_fork(x, activation="relu", pad=1)
    assert y.untyped_storage().data_ptr() == inside.untyped_storage().data_ptr()
    z = ops.instance_norm_act(x2, inside)
    grad_y, grad_z = torch.randn_like(y), torch.randn_like(z)
    with Launched() as launched:
        torch.autograd.grad((y, z), (x, x2), (grad_y, grad_z))
    assert launched.names == ["instance_norm_act_bwd"] * 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_inside_is_read_where_it_is(device: str, layout: str) -> None:
    """As the residual it gives the bits of its dense copy, and no border leaks into them."""
    for shape, dtype in itertools.product([(2, 8, 6, 5), (1, 5, 1, 7), (3, 4, 2, 1), (1, 16, 9, 3)], DTYPES):
        x = random_tensor(shape, dtype, device, layout).detach()
        for border in (0, 1, 3):
            padded = torch.full((*shape[:2], shape[2] + 2 * border, shape[3] + 2 * border), torch.nan, dtype=dtype)
            padded = padded.to(device).contiguous(memory_format=LAYOUTS[layout])
            inside = padded[:, :, border : border + shape[2], border : border + shape[3]]
            inside.copy_(torch.randn(shape))
            dense = inside.contiguous(memory_format=LAYOUTS[layout])
            assert torch.equal(ops.instance_norm_act(x, inside), ops.instance_norm_act(x, dense)), (shape, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiles_without_a_break(device: str, layout: str) -> None:
    inputs = block_inputs(device, layout)
    compiled = torch.compile(three_blocks, fullgraph=True, backend="aot_eager")
    expected, got = three_blocks(*inputs), compiled(*inputs)
    assert_close(got, expected, 1e-6)
    expected_grads, got_grads = (torch.autograd.grad(out, inputs) for out in (expected, got))
    for one, other in zip(got_grads, expected_grads, strict=True):
        assert_close(one, other, 1e-6)


def test_checkpointing_gives_the_same_gradients(device: str) -> None:
    inputs = block_inputs(device, "nhwc")
    whole = torch.autograd.grad(three_blocks(*inputs), inputs)
    again = torch.utils.checkpoint.checkpoint(three_blocks, *inputs, use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(whole, torch.autograd.grad(again, inputs), strict=True))


def test_second_derivatives(device: str) -> None:
    x = random_tensor((1, 2, 3, 4), torch.float32, device, "nchw")
    y, inside = ops.instance_norm_act_fork(x, pad=1)
    (grad,) = torch.autograd.grad(y.square().sum() + inside.square().sum(), x, create_graph=True)
    with pytest.raises(UserError, match="use_reference"):
        grad.sum().backward()
    x = random_tensor((1, 2, 3, 4), torch.float64, device, "nchw")
    with ops.use_reference():
        torch.autograd.gradgradcheck(lambda x: ops.instance_norm_act_fork(x, activation="leaky_relu", pad=1), x)


def test_without_gradients_nothing_is_recorded(device: str) -> None:
    x = random_tensor((1, 2, 3, 4), torch.float32, device, "nchw")
    with torch.no_grad():
        assert not any(y.requires_grad for y in ops.instance_norm_act_fork(x, pad=1))
    assert all(y.requires_grad for y in ops.instance_norm_act_fork(x, pad=1))
    with pytest.raises(UserError, match="contiguous or channels_last"):
        ops.instance_norm_act_fork(torch.randn(2, 3, 4, 6, device=device)[:, :, :, ::2])
