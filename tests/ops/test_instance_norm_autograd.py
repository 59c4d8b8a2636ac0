"""instance_norm_act under torch's machinery: opcheck, compile, export, checkpointing, second derivatives, capture."""

from __future__ import annotations

import itertools

import pytest
import torch
from norm_helpers import STATISTICS, Case, padded_shape, random_inputs, run_norm
from ops_helpers import LAYOUTS, assert_close, random_tensor
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError


@pytest.mark.parametrize("statistics", ["", "constant"])
def test_reference_is_twice_differentiable(statistics: str) -> None:
    case = Case((1, 2, 3, 4), "leaky_relu", 1, affine="weight, bias", statistics=statistics)
    inputs = random_inputs(case, torch.float64, "cpu", ("nchw", "nchw"))
    with ops.use_reference():
        torch.autograd.gradgradcheck(
            lambda *values: ops.instance_norm_act(**dict(zip(inputs, values, strict=True)), **case.options()),
            list(inputs.values()),
        )


def test_kernel_refuses_a_second_derivative(device: str) -> None:
    x = random_tensor((1, 2, 3, 4), torch.float32, device, "nchw")
    (grad,) = torch.autograd.grad(ops.instance_norm_act(x).square().sum(), x, create_graph=True)
    with pytest.raises(UserError, match="use_reference"):
        grad.sum().backward()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(device: str, layout: str) -> None:
    fwd, bwd = torch.ops.cyclegan_fast.instance_norm_act_fwd, torch.ops.cyclegan_fast.instance_norm_act_bwd
    x = random_tensor((2, 3, 5, 6), torch.float32, device, layout)
    r = random_tensor((2, 3, 7, 8), torch.float32, device, layout)[:, :, 1:-1, 1:-1]
    weight, bias = (torch.randn(3, device=device, requires_grad=True) for _ in range(2))
    statistics = ops.plane_statistics(torch.randn(2, 3, 4, 5, device=device))
    torch.library.opcheck(fwd, (x, None, None, None, None, None, False, 2, 0.2, 1e-5, 0))
    torch.library.opcheck(fwd, (x, r, weight, bias, None, None, False, 1, 0.2, 1e-5, 1))
    torch.library.opcheck(fwd, (x, r, None, bias, statistics, 20.0, True, 1, 0.2, 1e-5, 1))
    y, mean, rstd = (t.detach() for t in fwd(x, r, None, None, None, None, False, 1, 0.2, 1e-5, 1))
    x, weight, bias, grad_y = x.detach(), weight.detach(), bias.detach(), torch.randn_like(y)
    inner = torch.randn_like(x)
    torch.library.opcheck(bwd, (grad_y, None, x, mean, rstd, None, None, False, 1, 0.2, 1, False, False))
    torch.library.opcheck(bwd, (grad_y, inner, x, mean, rstd, weight, bias, False, 1, 0.2, 1, True, True))
    torch.library.opcheck(bwd, (grad_y, None, x, mean, rstd, weight, None, True, 1, 0.2, 1, False, True))


def test_the_backward_operator_returns_what_is_needed_and_nothing_empty(device: str) -> None:
    x = torch.randn(2, 3, 5, 6, device=device)
    _, mean, rstd = torch.ops.cyclegan_fast.instance_norm_act_fwd(x, *[None] * 5, False, 0, 0.2, 1e-5, 1)
    grad_y = torch.randn(2, 3, 7, 8, device=device)
    for needs_residual, needs_affine in itertools.product((False, True), repeat=2):
        options = (False, 0, 0.2, 1, needs_residual, needs_affine)
        grads = torch.ops.cyclegan_fast.instance_norm_act_bwd(grad_y, None, x, mean, rstd, None, None, *options)
        shapes = [x.shape] + [x.shape] * needs_residual + [(3,)] * 2 * needs_affine
        assert [grad.shape for grad in grads] == shapes


def two_blocks(x: Tensor, r: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = ops.instance_norm_act(x, r, weight=weight, bias=bias, activation="leaky_relu", pad=2)
    y = ops.instance_norm_act(y * 2, activation="relu")
    y = ops.instance_norm_act(y, statistics=ops.plane_statistics(y), bias=bias)
    return ops.l1_mean(y, torch.ones_like(y))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiles_without_a_break(device: str, layout: str) -> None:
    case = Case((2, 3, 6, 5), residual=1, affine="weight, bias")
    inputs = list(random_inputs(case, torch.float32, device, (layout, layout)).values())
    compiled = torch.compile(two_blocks, fullgraph=True, backend="aot_eager")
    expected, got = two_blocks(*inputs), compiled(*inputs)
    assert_close(got, expected, 1e-6)
    expected_grads, got_grads = (torch.autograd.grad(out, inputs) for out in (expected, got))
    for one, other in zip(got_grads, expected_grads, strict=True):
        assert_close(one, other, 1e-6)


@pytest.mark.parametrize("strict", [True, False])
def test_exports(device: str, strict: bool) -> None:
    class Blocks(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return two_blocks(*inputs)

    case = Case((2, 3, 6, 5), residual=1, affine="weight, bias")
    inputs = tuple(t.detach() for t in random_inputs(case, torch.float32, device, ("nchw", "nchw")).values())
    program = torch.export.export(Blocks(), inputs, strict=strict)
    assert torch.equal(program.module()(*inputs), two_blocks(*inputs))


def test_checkpointing_gives_the_same_gradients(device: str) -> None:
    case = Case((2, 3, 6, 5), residual=1, affine="weight, bias")
    inputs = list(random_inputs(case, torch.float32, device, ("nchw", "nchw")).values())
    whole = torch.autograd.grad(two_blocks(*inputs), inputs)
    again = torch.utils.checkpoint.checkpoint(two_blocks, *inputs, use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(whole, torch.autograd.grad(again, inputs), strict=True))


# On a GPU, sizes choose how the kernel runs.
SHAPES = [(1, 64, 31, 31), (8, 64, 31, 31), (1, 256, 64, 64), (1, 64, 256, 256), (2, 3, 33, 47)]


@pytest.mark.gpu
@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_capture_and_replay_equal_eager(layout: str, shape: tuple[int, ...], statistics: str) -> None:
    if not (torch.cuda.is_available() and ops.extension_available() and ops.build_info()["cuda_archs"]):
        pytest.skip("no CUDA device, or the extension was built without CUDA")
    case = Case(shape, "relu", 1, 1, affine="weight, bias", statistics=statistics)
    inputs = random_inputs(case, torch.bfloat16, "cuda", (layout, layout))
    grad_y = random_tensor(padded_shape(case, 1), torch.bfloat16, "cuda", layout).detach()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run_norm(case, inputs, grad_y)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, grads = run_norm(case, inputs, grad_y)
    with torch.no_grad():
        for name, tensor in random_inputs(case, torch.bfloat16, "cuda", (layout, layout)).items():
            inputs[name].copy_(tensor)
    graph.replay()
    eager_y, eager_grads = run_norm(case, inputs, grad_y)
    assert torch.equal(y, eager_y)
    assert all(torch.equal(grads[name], eager_grads[name]) for name in grads)
