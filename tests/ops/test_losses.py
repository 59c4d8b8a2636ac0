"""l1_mean, cycle_loss, lsgan_loss and hinge_loss: values and gradients against float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from ops_helpers import LAYOUTS, TOLERANCE, assert_close, in_float64, random_tensor
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.losses import HINGE, L1, MAX_TERMS, SQUARE

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 16, 8, 8), (2, 3, 65, 63), (1, 3, 150, 151), (1, 4, 8, 8), (5,), (3, 7)]
LAYOUT_MIXES = [("nchw", "nchw"), ("nhwc", "nhwc"), ("nhwc", "nchw"), ("nchw", "nhwc")]  # a, b
SCORE_LOSSES = {"lsgan": (ops.lsgan_loss, [1.0, 0.0, 0.9]), "hinge": (ops.hinge_loss, [1.0, -1.0])}


def draw(dtype: torch.dtype, device: str, *layouts: str) -> list[list[Tensor]]:
    """For each layout a tensor of every shape, the next one in the other layout."""
    others = {"nchw": "nhwc", "nhwc": "nchw"}
    return [
        [
            random_tensor(shape, dtype, device, "nchw" if len(shape) < 4 else (layout if k % 2 else others[layout]))
            for k, shape in enumerate(SHAPES)
        ]
        for layout in layouts
    ]


def weights_of(tensors: list[Tensor]) -> list[float]:
    return [0.5 + k for k in range(len(tensors))]


def check(values: Tensor, expected: Tensor, leaves: list[Tensor], exact_leaves: list[Tensor]) -> None:
    """Compares values and gradients, each gradient times its tensor's size."""
    dtype = leaves[0].dtype
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(values, expected, 1e-13 if dtype == torch.float64 else 1e-6, "values")
    grad = 64 * torch.randn(values.shape, dtype=torch.float64)  # as loss scaling does: half has no digits below
    got = torch.autograd.grad(values, leaves, grad.to(values))
    wanted = torch.autograd.grad(expected, exact_leaves, grad, retain_graph=True)
    for leaf, x, y in zip(leaves, got, wanted, strict=True):
        assert x.dtype == dtype
        size = leaf.numel() / 64
        assert_close(x.double() * size, y * size, TOLERANCE[dtype], f"gradient of {list(leaf.shape)}")


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("layouts", LAYOUT_MIXES)
def test_cycle_loss_matches_float64(device: str, dtype: torch.dtype, layouts: tuple[str, str]) -> None:
    a, b = draw(dtype, device, *layouts)
    a64, b64 = [in_float64(x) for x in a], [in_float64(x) for x in b]
    weights = weights_of(a)
    expected = torch.stack([w * F.l1_loss(x, y) for w, x, y in zip(weights, a64, b64, strict=True)])
    pairs = list(zip(a, b, strict=True))
    values = ops.cycle_loss(pairs, weights)
    check(values, expected, [*a, *b], [*a64, *b64])
    with torch.no_grad():  # without the signs: the same bits
        assert torch.equal(values, ops.cycle_loss(pairs, weights))
    check(ops.l1_mean(*pairs[3]), F.l1_loss(a64[3], b64[3]), list(pairs[3]), [a64[3], b64[3]])


def exact_score_loss(name: str, x: Tensor, target: float) -> Tensor:
    return F.mse_loss(x, torch.full_like(x, target)) if name == "lsgan" else F.relu(1 - target * x).mean()


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SCORE_LOSSES)
def test_score_losses_match_float64(device: str, dtype: torch.dtype, layout: str, name: str) -> None:
    loss, choices = SCORE_LOSSES[name]
    (scores,) = draw(dtype, device, layout)
    exact = [in_float64(x) for x in scores]
    targets, weights = list(itertools.islice(itertools.cycle(choices), len(scores))), weights_of(scores)
    terms = zip(weights, exact, targets, strict=True)
    expected = torch.stack([w * exact_score_loss(name, x, target) for w, x, target in terms])
    check(loss(scores, targets, weights), expected, scores, exact)
    with ops.use_reference():
        check(loss(scores, targets, weights), expected, scores, exact)


@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512", "avx512_bf16"])
def test_each_instruction_set(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("CYCLEGAN_FAST_ISA", isa)
    if not ops.extension_available() or ops.build_info()["isa"] != isa:
        pytest.skip(f"no extension, or this processor has no {isa}")
    for dtype in TOLERANCE:
        test_cycle_loss_matches_float64("cpu", dtype, ("nhwc", "nchw"))
        for name in SCORE_LOSSES:
            test_score_losses_match_float64("cpu", dtype, "nhwc", name)


def test_kinks_have_no_gradient(device: str) -> None:
    a = torch.tensor([1.0, 2.0, 3.0, 4.0], device=device, requires_grad=True)
    b = torch.tensor([1.0, 5.0, 0.0, 4.0], device=device)
    ops.l1_mean(a, b).backward()
    assert a.grad.tolist() == [0.0, -0.25, 0.25, 0.0]
    (grad,) = torch.autograd.grad(ops.hinge_loss([a - 2], [-1], [4.0]).sum(), a)
    assert grad.tolist() == [0.0, 1.0, 1.0, 1.0]


def test_a_value_that_is_no_number_shows(device: str) -> None:
    nan = torch.tensor([1.0, float("nan"), 5.0], device=device)
    assert ops.l1_mean(nan, torch.ones_like(nan)).isnan()
    assert ops.lsgan_loss([nan], [1], [1]).isnan()
    assert ops.hinge_loss([nan, nan], [1, -1], [1, 1]).isnan().all()


def test_types_meet_in_the_widest(device: str) -> None:
    a = random_tensor((2, 3, 4, 5), torch.bfloat16, device, "nchw")
    b = random_tensor((2, 3, 4, 5), torch.float32, device, "nchw")
    value = ops.l1_mean(a, b)
    value.backward()
    assert_close(value, (a.double() - b.double()).abs().mean(), 1e-6)
    assert a.grad.dtype == torch.bfloat16 and b.grad.dtype == torch.float32
    values = ops.lsgan_loss([a, b], [1, 0], [1, 1])
    assert_close(values[0], (a.double() - 1).square().mean(), 1e-6)
    assert [g.dtype for g in torch.autograd.grad(values.sum(), (a, b))] == [torch.bfloat16, torch.float32]


def test_only_what_wants_a_gradient_gets_one(device: str) -> None:
    a, b = (random_tensor((1, 2, 3, 4), torch.float32, device, "nchw") for _ in range(2))
    fixed = torch.zeros_like(a)
    for pairs in ([(a, fixed), (fixed, b)], [(a, b)]):
        grads = torch.autograd.grad(ops.cycle_loss(pairs, [24.0] * len(pairs)).sum(), (a, b))
        expected = [a - b, b - a] if len(pairs) == 1 else [a, b]
        assert all(torch.equal(g, x.sign()) for g, x in zip(grads, expected, strict=True))
    assert not ops.cycle_loss([(fixed, fixed)], [1.0]).requires_grad


def test_more_terms_than_a_launch_holds(device: str) -> None:
    scores = [random_tensor((1, 1, 5, k + 1), torch.float64, device, "nchw") for k in range(2 * MAX_TERMS + 1)]
    targets, weights = [float(k % 2) for k in range(len(scores))], weights_of(scores)
    exact = [in_float64(x) for x in scores]
    terms = zip(exact, targets, weights, strict=True)
    expected = torch.stack([w * F.mse_loss(x, torch.full_like(x, target)) for x, target, w in terms])
    check(ops.lsgan_loss(scores, targets, weights), expected, scores, exact)
    mixed = ops.lsgan_loss([x.float() for x in scores[:-1]] + scores[-1:], targets, weights)
    assert mixed.dtype == torch.float64  # the widest of all terms, not of a launch's
    rounded = weights[0] * scores[0].float().double().square().mean()
    assert_close(mixed[0], rounded, 1e-13)
    pairs = [(x, torch.ones_like(x)) for x in scores]
    assert_close(ops.cycle_loss(pairs, weights)[-1], weights[-1] * (exact[-1] - 1).abs().mean(), 1e-13)


def test_same_bits_for_any_thread_count() -> None:
    pairs = [tuple(random_tensor((1, 3, 200, s), torch.float32, "cpu", "nchw") for _ in range(2)) for s in (201, 90)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            values = ops.cycle_loss(pairs, [1.0, 2.0])
            results.append([values, *torch.autograd.grad(values.sum(), pairs[0])])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def op_calls(device: str, layout: str) -> Iterator[tuple[int, list[Tensor], list[Tensor], list[float]]]:
    """The kind, a, b and targets of a call of each kind."""
    a, b = ([random_tensor((2, 3, 5, k), torch.float64, device, layout).detach() for k in (6, 1)] for _ in range(2))
    yield from ((L1, a, b, []), (SQUARE, a, [], [1.0, 0.0]), (HINGE, a, [], [1.0, -1.0]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(device: str, layout: str) -> None:
    fwd, bwd = torch.ops.cyclegan_fast.losses_fwd, torch.ops.cyclegan_fast.losses_bwd
    for loss, a, b, targets in op_calls(device, layout):
        for with_sign in (True, False):
            torch.library.opcheck(fwd, (loss, a, b, targets, [1.0, 2.0], with_sign))
        values, signs = fwd(loss, a, b, targets, [1.0, 2.0], True)
        torch.library.opcheck(bwd, (loss, values, signs or a, targets, [1.0, 2.0], torch.float64))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck(device: str, layout: str) -> None:
    a, b, c = (random_tensor((2, 3, 5, 6), torch.float64, device, layout) for _ in range(3))
    torch.autograd.gradcheck(ops.l1_mean, (a, b))
    torch.autograd.gradcheck(lambda a, b, c: ops.cycle_loss([(a, b), (b, c)], [1.0, 2.0]), (a, b, c))
    torch.autograd.gradcheck(lambda a, b: ops.lsgan_loss([a, b], [1, 0], [1.0, 2.0]), (a, b))
    torch.autograd.gradcheck(lambda a, b: ops.hinge_loss([a, b], [1, -1], [1.0, 2.0]), (a, b))


def test_reference_is_twice_differentiable() -> None:
    a, b = (random_tensor((1, 2, 3, 4), torch.float64, "cpu", "nchw") for _ in range(2))
    with ops.use_reference():
        torch.autograd.gradgradcheck(lambda a, b: ops.lsgan_loss([a, b], [1, 0], [1.0, 2.0]), (a, b))
        torch.autograd.gradgradcheck(lambda a, b: ops.hinge_loss([a, b], [1, -1], [1.0, 2.0]).square(), (a, b))
        torch.autograd.gradgradcheck(lambda a, b: ops.cycle_loss([(a, b)], [2.0]).square(), (a, b))


def test_kernel_refuses_a_second_derivative(device: str) -> None:
    x = random_tensor((1, 2, 3, 4), torch.float32, device, "nchw")
    with pytest.raises(UserError, match="use_reference"):
        torch.autograd.grad(ops.lsgan_loss([x], [1], [1]).sum(), x, create_graph=True)


def test_compiled_equals_eager(device: str) -> None:
    def losses(a: Tensor, b: Tensor) -> Tensor:
        scores = [a.mean(1), b.mean(1)]
        parts = [ops.cycle_loss([(a, b)], [10.0]), ops.lsgan_loss(scores, [1, 0], [0.5, 0.5])]
        return torch.cat([*parts, ops.hinge_loss(scores, [1, -1], [0.5, 0.5]), ops.l1_mean(a, b)[None]])

    a, b = (random_tensor((2, 3, 8, 8), torch.float32, device, "nhwc") for _ in range(2))
    compiled = torch.compile(losses, fullgraph=True, backend="aot_eager")
    got, expected = compiled(a, b), losses(a, b)
    assert torch.equal(got, expected)
    for x, y in zip(*(torch.autograd.grad(v.sum(), (a, b)) for v in (got, expected)), strict=True):
        assert_close(x, y, 1e-6)


MISTAKES: list[tuple[str, Callable[[], Tensor]]] = [
    ("l1_mean: b must have the shape", lambda: ops.l1_mean(torch.ones(2, 3), torch.ones(3, 2))),
    ("cycle_loss: there must be at least one", lambda: ops.cycle_loss([], [])),
    ("cycle_loss: weights must hold one number", lambda: ops.cycle_loss([(torch.ones(2), torch.ones(2))], [1, 2])),
    ("lsgan_loss: targets must hold one number", lambda: ops.lsgan_loss([torch.ones(2)], [], [1])),
    (r"hinge_loss: targets must be 1 \(real\)", lambda: ops.hinge_loss([torch.ones(2)], [0], [1])),
    (
        "all terms must be on one device",
        lambda: ops.lsgan_loss([torch.ones(2), torch.ones(2, device="meta")], [1, 0], [1, 1]),
    ),
]


@pytest.mark.parametrize(("message", "call"), MISTAKES)
def test_mistakes_get_one_sentence(message: str, call: Callable[[], Tensor]) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_kernel_refuses_other_strides(device: str) -> None:
    with pytest.raises(UserError, match="a must be contiguous or channels_last"):
        ops.l1_mean(torch.ones(4, 6, device=device).t(), torch.ones(6, 4, device=device))


def test_empty_is_nan_as_in_torch(device: str) -> None:
    empty, full = (torch.ones(n, 3, device=device, requires_grad=True) for n in (0, 2))
    assert ops.l1_mean(empty, empty).isnan()
    values = ops.lsgan_loss([full, empty, full], [0, 0, 3], [1, 1, 1])
    assert values.isnan().tolist() == [False, True, False] and values[::2].tolist() == [1, 4]
    grads = torch.autograd.grad(values[::2].sum(), (full, empty))
    assert torch.equal(grads[0], torch.full_like(full, -1 / 3)) and grads[1].shape == (0, 3)


@pytest.mark.gpu
def test_capture_and_replay_equal_eager() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    a, b = (random_tensor((4, 3, 256, 256), torch.float32, "cuda", "nchw") for _ in range(2))

    def run() -> list[Tensor]:
        total = ops.cycle_loss([(a, b), (b, a)], [10.0, 5.0]).sum() + ops.hinge_loss([a, b], [1, -1], [0.5, 0.5]).sum()
        total = total + ops.lsgan_loss([a, b], [1, 0], [0.5, 0.5]).sum()
        return [total, *torch.autograd.grad(total, (a, b))]

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = run()
    with torch.no_grad():
        a.copy_(torch.randn_like(a))
    graph.replay()
    assert all(torch.equal(x, y) for x, y in zip(replayed, run(), strict=True))
