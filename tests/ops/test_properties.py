"""Properties of the operators over random shapes, layouts, types, strides and places in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ops_helpers import TOLERANCE, assert_close, in_float64
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError

pytest.importorskip("hypothesis")  # a host that only runs the GPU tests may lack it
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

# The fixture `device` is a string: no state that one example could leave to the next.
# A machine that has much else to do draws slowly.
suppressed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
many = settings(max_examples=60, deadline=None, suppress_health_check=suppressed)

dtypes = st.sampled_from(list(TOLERANCE))
shapes = st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
seeds = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Place:
    """How a tensor lies in memory: dense, or every `step`-th slice of one that is longer along `axis`."""

    layout: str = "nchw"
    offset: int = 0  # elements before the first: its address is no multiple of 16 bytes
    axis: int = 0
    step: int = 1
    spare: int = 0  # slices left over at the end of the axis

    def put(self, values: Tensor) -> Tensor:
        """A leaf with these values [N, C, H, W] that lies so, NaN around it."""
        order, back = ((0, 2, 3, 1), (0, 3, 1, 2)) if self.layout == "nhwc" else ((0, 1, 2, 3),) * 2
        shape = list(values.shape)
        shape[self.axis] = shape[self.axis] * self.step + self.spare
        buffer = torch.full((self.offset + math.prod(shape),), math.nan, dtype=values.dtype, device=values.device)
        whole = buffer[self.offset :].view([shape[axis] for axis in order]).permute(back)
        rows = slice(0, values.shape[self.axis] * self.step, self.step)
        return whole[(slice(None),) * self.axis + (rows,)].copy_(values).requires_grad_()


layouts = st.sampled_from(["nchw", "nhwc"])
dense = st.builds(Place, layouts, st.integers(0, 3))
anywhere = st.builds(Place, layouts, st.integers(0, 3), st.integers(0, 3), st.integers(1, 2), st.integers(0, 1))


def is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def well_apart(shape: tuple[int, ...], seed: int, dtype: torch.dtype, device: str) -> Tensor:
    """Random planes with a wide spread, whatever their size, and no value at the mean: a bent ramp, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    pixels = shape[2] * shape[3]
    ramp = torch.linspace(-1.6, 1.4, pixels, dtype=torch.float64)[torch.randperm(pixels, generator=generator)]
    ramp += 0.1 * ramp**2
    scale = torch.rand(shape[:2], generator=generator, dtype=torch.float64)[..., None, None] + 0.5
    return (ramp.view(shape[2:]) * scale).to(dtype).to(device)


def normal(shape: tuple[int, ...], seed: int, dtype: torch.dtype, device: str) -> Tensor:
    """Random values [shape]."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype).to(device)


def bordered(shape: tuple[int, ...], border: int) -> tuple[int, ...]:
    return *shape[:2], shape[2] + 2 * border, shape[3] + 2 * border


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.detach(), b.detach())


def share_memory(a: Tensor, b: Tensor) -> bool:
    return a.numel() > 0 and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@dataclass(frozen=True)
class NormCall:
    """One call of instance_norm_act and of its backward pass."""

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    x: Place
    residual: Place | None
    residual_is_x: bool
    residual_pad: int
    grad: Place
    activation: str
    pad: int
    affine: bool
    ready_statistics: bool
    seed: int

    def inputs(self, device: str) -> dict[str, Tensor]:
        x = self.x.put(well_apart(self.shape, self.seed, self.dtype, device))
        inputs = {"x": x}
        if self.residual_is_x:
            inputs["residual"] = x
        elif self.residual is not None:
            values = normal(bordered(self.shape, self.residual_pad), self.seed + 1, self.dtype, device)
            inputs["residual"] = self.residual.put(values)
        if self.affine:
            inputs |= {
                name: normal(self.shape[1:2], self.seed + k, self.dtype, device).requires_grad_()
                for k, name in enumerate(("weight", "bias"), 2)
            }
        return inputs

    def options(self, x: Tensor) -> dict[str, Any]:
        statistics = ops.plane_statistics(x) if self.ready_statistics else None
        return {"activation": self.activation, "pad": self.pad, "statistics": statistics}


@st.composite
def norm_calls(draw: st.DrawFn) -> NormCall:
    shape = draw(shapes)
    return NormCall(
        shape,
        draw(dtypes),
        draw(dense),
        draw(st.none() | anywhere),
        draw(st.booleans()),
        draw(st.integers(0, 2)),
        draw(anywhere),
        draw(st.sampled_from(["none", "relu", "leaky_relu"])),
        draw(st.integers(0, min(3, shape[2] - 1, shape[3] - 1))),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(seeds),
    )


def grads_of(y: Tensor, inputs: dict[str, Tensor], grad_y: Tensor) -> dict[str, Tensor]:
    return dict(zip(inputs, torch.autograd.grad(y, list(inputs.values()), grad_y), strict=True))


@given(call=norm_calls())
@many
def test_norm_matches_float64_wherever_its_tensors_lie(device: str, call: NormCall) -> None:
    inputs = call.inputs(device)
    grad_y = call.grad.put(normal(bordered(call.shape, call.pad), call.seed + 9, call.dtype, device)).detach()
    before = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    y = ops.instance_norm_act(**inputs, **call.options(inputs["x"]))
    grads = grads_of(y, inputs, grad_y)
    assert all(same_bits(inputs[name], before[name]) for name in inputs)
    assert not any(share_memory(y, tensor) for tensor in inputs.values())

    wide = {name: in_float64(tensor) for name, tensor in inputs.items()}
    if call.residual_is_x:
        wide["residual"] = wide["x"]
    with ops.use_reference():
        expected = ops.instance_norm_act(**wide, **call.options(wide["x"]))
        kinks = ops.instance_norm_act(**{k: v for k, v in wide.items() if k != "residual"})
    assume(call.activation == "none" or call.shape[2] * call.shape[3] == 1 or not (kinks.abs() < 1e-5).any())
    expected_grads = grads_of(expected, wide, in_float64(grad_y))
    pixels = max(grad_y.numel() / call.shape[1], 1)
    assert_close(y, expected, 4 * TOLERANCE[call.dtype], "y")
    for name, grad in grads.items():
        # A parameter's gradient is a sum over the pixels; with one pixel, 1 / std is 316; a residual that is x itself
        # adds two rounded gradients that may cancel.
        factor = pixels**0.5 if name in ("weight", "bias") else 16 if call.residual_is_x else 4
        factor = 1e3 if call.shape[2] * call.shape[3] == 1 else factor
        assert_close(grad, expected_grads[name], factor * TOLERANCE[call.dtype], f"the gradient of {name}")


@given(shape=shapes.filter(all), dtype=dtypes, place=anywhere, seed=seeds)
@many
def test_strides_are_read_rightly_or_refused(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, place: Place, seed: int
) -> None:
    x = place.put(well_apart(shape, seed, dtype, device))
    for op in (ops.instance_norm_act, ops.plane_statistics, lambda x: ops.l1_mean(x, x.detach() + 1)):
        if is_dense(x):
            assert_close(op(x), op(x.detach().contiguous().clone()), 8 * TOLERANCE[dtype])
        else:
            with pytest.raises(UserError, match="must be contiguous or channels_last"):
                op(x)


@given(shape=shapes, dtype=dtypes, a=dense, b=anywhere, b_is_a=st.booleans(), seed=seeds)
@many
def test_l1_mean_matches_float64_wherever_its_tensors_lie(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, a: Place, b: Place, b_is_a: bool, seed: int
) -> None:
    left = a.put(normal(shape, seed, dtype, device))
    right = left if b_is_a else b.put(normal(shape, seed + 1, dtype, device))
    before = [left.detach().clone(), right.detach().clone()]
    value = ops.l1_mean(left, right)
    assert same_bits(left, before[0]) and same_bits(right, before[1])
    if left.numel() == 0:
        assert value.isnan()
        return
    wide_left = in_float64(left)
    wide_right = wide_left if b_is_a else in_float64(right)
    expected = torch.nn.functional.l1_loss(wide_left, wide_right)
    assert_close(value, expected, 1e-13 if dtype == torch.float64 else 1e-6)
    leaves, wide_leaves = ([left], [wide_left]) if b_is_a else ([left, right], [wide_left, wide_right])
    grads = torch.autograd.grad(value * left.numel(), leaves)
    for got, wanted in zip(grads, torch.autograd.grad(expected * left.numel(), wide_leaves), strict=True):
        assert_close(got, wanted, TOLERANCE[dtype])


@given(shape=shapes, dtype=dtypes, place=anywhere, grad=anywhere, data=st.data(), seed=seeds)
@many
def test_reflect_pad_matches_torch_wherever_its_tensors_lie(
    device: str, shape: tuple[int, ...], dtype: torch.dtype, place: Place, grad: Place, data: st.DataObject, seed: int
) -> None:
    pad = data.draw(st.integers(0, min(shape[2:]) - 1), "pad")
    x = place.put(normal(shape, seed, dtype, device))
    before, y = x.detach().clone(), ops.reflect_pad(x, pad)
    wide = in_float64(x)
    expected = torch.nn.functional.pad(wide, (pad,) * 4, mode="reflect") if pad else wide * 1
    assert same_bits(y.double().cpu(), expected) and same_bits(x, before)
    assert pad == 0 or not share_memory(y, x)
    grad_y = grad.put(normal(bordered(shape, pad), seed + 1, dtype, device)).detach()
    (got,), (wanted,) = torch.autograd.grad(y, x, grad_y), torch.autograd.grad(expected, wide, in_float64(grad_y))
    assert_close(got, wanted, 8 * TOLERANCE[dtype])
