"""Tensors that are views of others: every operator gives the reference's result, or refuses them in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ops_helpers import TOLERANCE, assert_close
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError

Inputs = dict[str, Tensor]


# ---- The kinds of views: each takes values [...] and returns a view of the same shape ----


def every_second(values: Tensor) -> Tensor:
    buffer = values.new_empty((*values.shape[:-1], 2 * values.shape[-1]))
    return buffer[..., ::2].copy_(values)


def expanded(values: Tensor) -> Tensor:
    """All slices along the last axis are one."""
    return values[..., :1].expand(values.shape)


def transposed(values: Tensor) -> Tensor:
    return values.transpose(0, -1).contiguous().transpose(0, -1)


def narrowed(values: Tensor) -> Tensor:
    return torch.cat((values, values), -1).narrow(-1, 1, values.shape[-1])


def behind_an_element(values: Tensor) -> Tensor:
    """Dense, at an address that is no multiple of 16 bytes."""
    return torch.cat((values.flatten()[:1], values.flatten()))[1:].view(values.shape)


def at_an_odd_address(values: Tensor) -> Tensor:
    """Dense, at an address that is no multiple of the element's size, as bytes of a file may be."""
    content = bytearray(values.numel() * values.element_size() + 1)
    return torch.frombuffer(content, dtype=values.dtype, offset=1).view(values.shape).copy_(values)


def overlapping(values: Tensor) -> Tensor:
    """Each row shares all elements but one with the next."""
    return values.flatten().as_strided(values.shape, (1,) * values.dim())


def second_of_two(values: Tensor) -> Tensor:
    return torch.stack((values, values))[1]


def with_an_odd_stride(values: Tensor) -> Tensor:
    """Dense: the stride of an axis of size 1 means nothing."""
    strides = [7919 if size == 1 else stride for size, stride in zip(values.shape, values.stride(), strict=True)]
    return values.as_strided(values.shape, strides)


def from_numpy(values: Tensor) -> Tensor:
    array = values.view(torch.int16).numpy() if values.dtype == torch.bfloat16 else values.numpy()
    view = torch.from_numpy(array.repeat(2, axis=-1)[..., ::2])
    return view.view(values.dtype) if values.dtype != torch.bfloat16 else second_of_two(values)


def negated(values: Tensor) -> Tensor:
    """Lazily: the memory holds the negatives."""
    return torch._neg_view(-values) if values.is_floating_point() else values


def dense(values: Tensor) -> Tensor:
    return values


VIEWS = [
    dense,
    every_second,
    expanded,
    transposed,
    narrowed,
    behind_an_element,
    at_an_odd_address,
    overlapping,
    second_of_two,
    with_an_odd_stride,
    from_numpy,
    negated,
]
# ---- The operators: their tensors, and a call that returns one tensor ----

N, C, H, W = 1, 4, 6, 5


def norm_inputs(dtype: torch.dtype) -> Inputs:
    shapes = {"x": (N, C, H, W), "residual": (N, C, H + 2, W + 2), "weight": (C,), "bias": (C,), "grad": (N, C, 8, 7)}
    return {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}


def statistics_inputs(dtype: torch.dtype) -> Inputs:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return {"x": torch.randn(N, C, H, W).to(dtype), "statistics": (torch.rand(3, N, C) + 5).to(wide)}


def pool_inputs(dtype: torch.dtype) -> Inputs:
    numbers = {name: torch.tensor([value]) for name, value in (("count", 2), ("drawn", 4))}
    images = {"pool": torch.randn(2, C, H, W).to(dtype), "fakes": torch.randn(3, C, H, W).to(dtype)}
    return images | numbers


def exchanged(pool: Tensor, count: Tensor, drawn: Tensor, fakes: Tensor) -> Tensor:
    """The images that come back, and those that are in the pool afterwards."""
    return torch.cat((ops.image_pool_exchange(pool, count[0], drawn[0], fakes, seed=1), pool))


def pixels_inputs(dtype: torch.dtype) -> Inputs:
    placement = torch.tensor([[1, 1, 0], [0, 1, 1]], dtype=torch.int32)
    return {"pixels": torch.randint(0, 256, (2, H, W, 3), dtype=torch.uint8), "placement": placement}


def random(**shapes: tuple[int, ...]) -> Callable[[torch.dtype], Inputs]:
    return lambda dtype: {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}


def merged(a: Tensor, b: Tensor) -> Tensor:
    return ops.merge_statistics([a, b], [30, 20])


CALLS: dict[str, tuple[Callable[[torch.dtype], Inputs], Callable[..., Tensor]]] = {
    "instance_norm_act": (
        norm_inputs,
        lambda x, residual, **others: ops.instance_norm_act(x, residual, activation="leaky_relu", pad=1, **others),
    ),
    "instance_norm_act with statistics": (
        statistics_inputs,
        lambda x, statistics: ops.instance_norm_act(x, statistics=statistics, constant_statistics=True),
    ),
    "plane_statistics": (random(x=(N, C, H, W)), ops.plane_statistics),
    "merge_statistics": (random(a=(3, N, C), b=(3, N, C)), merged),
    "conv2d": (
        random(x=(N, 3, H, W), weight=(C, 3, 3, 3), bias=(C,), grad=(N, C, H, W)),
        lambda x, weight, bias: ops.conv2d(x, weight, bias, pad=1),
    ),
    "conv2d by Winograd": (
        random(x=(N, 16, H, W), weight=(16, 16, 3, 3), grad=(N, 16, H, W)),
        lambda x, weight: ops.conv2d(x, weight, pad=1),
    ),
    "conv_transpose2d": (
        random(x=(N, 3, H, W), weight=(3, C, 4, 4), grad=(N, C, 12, 10)),
        lambda x, weight: ops.conv_transpose2d(x, weight, stride=2, pad=1),
    ),
    "l1_mean": (random(a=(N, C, H, W), b=(N, C, H, W)), lambda a, b: 64 * ops.l1_mean(a, b)),
    "cycle_loss": (random(a=(N, C, H, W), b=(N, C, H, W)), lambda a, b: ops.cycle_loss([(a, b), (b, a)], [64, 128])),
    "lsgan_loss": (random(scores=(N, 1, H, W), grad=(1,)), lambda scores: ops.lsgan_loss([scores], [1.0], [64.0])),
    "hinge_loss": (random(scores=(N, 1, H, W), grad=(1,)), lambda scores: ops.hinge_loss([scores], [-1], [64.0])),
    "reflect_pad": (random(x=(N, C, H, W), grad=(N, C, 10, 9)), lambda x: ops.reflect_pad(x, 2)),
    "bias_act": (
        random(x=(2 * N, C, H, W), bias=(C,), grad=(2 * N, C, H, W)),
        lambda x, bias: torch.cat(ops.bias_act(x, bias, activation="tanh", batches=[N, N])),
    ),
    "reflect_pad of two": (
        random(x=(N, C, H, W), y=(2 * N, C, H, W), grad=(3 * N, C, 8, 7)),
        lambda x, y: ops.reflect_pad([x, y], 1),
    ),
    "image_pool_exchange": (pool_inputs, exchanged),
    "to_uint8": (random(images=(N, 3, H, W)), lambda images: ops.to_uint8(images, tanh=True)),
    "from_uint8": (pixels_inputs, lambda pixels, placement: ops.from_uint8(pixels, crop=(4, 3), placement=placement)),
}
ALIKE = {"conv2d", "conv2d by Winograd", "conv_transpose2d"}  # torch refuses float32 weights for other types


def run(op: str, inputs: Inputs, grad: Tensor | None) -> list[Tensor]:
    """The output, and the gradients of all inputs that have one."""
    y = CALLS[op][1](**inputs)
    leaves = [t for t in inputs.values() if t.requires_grad]
    if not (leaves and y.requires_grad):
        return [y]
    grad = torch.ones_like(y) if grad is None else grad.to(y.dtype)
    grads = torch.autograd.grad(y, leaves, grad, allow_unused=True)
    return [y.detach(), *(g if g is not None else torch.zeros(()) for g in grads)]


def in_memory_of(layout: str, kind: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    if layout == "nchw" or values.dim() != 4:
        return kind(values)
    return kind(values.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)


def needs_grad(op: str, tensor: Tensor, name: str) -> bool:
    return tensor.is_floating_point() and op != "image_pool_exchange" and name not in ("statistics", "grad")


def check(op: str, argument: str, kind: Callable[[Tensor], Tensor], layout: str, dtype: torch.dtype) -> bool:
    """Returns whether the operator took the view."""
    base = {name: in_memory_of(layout, dense, values) for name, values in CALLS[op][0](dtype).items()}
    base[argument] = in_memory_of(layout, kind, base[argument].contiguous())
    what = f"{op}: {argument} {kind.__name__} {layout} {dtype}"
    inputs, expected_inputs = (
        {name: (t if t is base[argument] and mine else t.clone()) for name, t in base.items()} for mine in (True, False)
    )
    expected_inputs = {
        name: (t.double() if t.is_floating_point() else t).contiguous() for name, t in expected_inputs.items()
    }
    for some in (inputs, expected_inputs):
        for name, t in some.items():
            if needs_grad(op, t, name):
                some[name] = t.detach().requires_grad_()
    grad, wide_grad = inputs.pop("grad", None), expected_inputs.pop("grad", None)
    before = {name: t.detach().clone() for name, t in inputs.items()}
    try:
        got = run(op, inputs, grad)
    except UserError as error:
        view = base[argument]
        channels_last = op != "from_uint8" and view.is_contiguous(memory_format=torch.channels_last)
        readable = view.is_contiguous() or channels_last
        assert not readable or (view.is_neg() and argument == "pool"), what
        assert op.split()[0] in str(error) and ("resolve_neg" if readable else "contiguous") in str(error), what
        return False
    with ops.use_reference():
        expected = run(op, expected_inputs, wide_grad)
    for a, b in zip(got, expected, strict=True):
        if a.dtype == torch.uint8:
            assert (a.int() - b.int()).abs().max() <= 1, what
        else:
            assert_close(a, b, 16 * TOLERANCE[dtype], what)
    for name, t in inputs.items():
        assert op == "image_pool_exchange" or t.equal(before[name]), f"{what}: {name} was changed"
    return True


@pytest.mark.parametrize("kind", VIEWS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("op", CALLS)
def test_a_view_gives_the_references_result_or_is_refused(op: str, kind: Callable[[Tensor], Tensor]) -> None:
    if not ops.extension_available():
        pytest.skip(str(ops.extension_error()))
    for dtype in (torch.float32, torch.float64) if op in ALIKE else (torch.float32, torch.bfloat16):
        for layout in ("nchw",) if op == "from_uint8" else ("nchw", "nhwc"):  # its bytes have one layout
            for argument in CALLS[op][0](dtype):
                taken = check(op, argument, kind, layout, dtype)
                assert taken or kind not in (dense, behind_an_element, at_an_odd_address, second_of_two)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pool, count, drawn, fakes: (pool.requires_grad_(), count, drawn, fakes), "pass pool.detach"),
        (lambda pool, count, drawn, fakes: (pool, count, count, fakes), "count and drawn must be two tensors"),
        (lambda pool, count, drawn, fakes: (pool, count, drawn, pool[1:]), "pass fakes.clone"),
    ],
)
def test_a_pool_that_overlaps_is_refused(change: Callable[..., Any], message: str) -> None:
    scalars = [torch.zeros((), dtype=torch.int64) for _ in range(2)]
    with pytest.raises(UserError, match=message):
        ops.image_pool_exchange(*change(torch.randn(2, 3, 4, 5), *scalars, torch.randn(1, 3, 4, 5)), seed=0)


def test_a_pool_may_be_a_part_of_a_larger_tensor() -> None:
    """The fakes may lie beside it in the same memory."""
    whole, scalars = torch.randn(4, 3, 4, 5), [torch.zeros((), dtype=torch.int64) for _ in range(2)]
    before = whole.clone()
    returned = ops.image_pool_exchange(whole[1:3], *scalars, whole[3:], seed=0)
    assert returned.equal(before[3:]) and whole[1].equal(before[3]) and whole[[0, 2, 3]].equal(before[[0, 2, 3]])
    assert math.prod(returned.shape) == 60


def test_a_frozen_layer_s_bias_alone_gets_its_gradient() -> None:
    x, weight = (torch.randn(shape).to(memory_format=torch.channels_last) for shape in ((1, 3, 6, 6), (4, 3, 3, 3)))
    bias = torch.randn(4, requires_grad=True)
    (grad,) = torch.autograd.grad(ops.conv2d(x, weight, bias).sum(), bias)
    assert grad.tolist() == [16.0] * 4
