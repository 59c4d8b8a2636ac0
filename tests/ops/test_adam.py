"""adam_step against torch.optim.Adam in float64 and torch.amp.GradScaler, over many steps."""

from __future__ import annotations

import contextlib
import copy
import itertools
from dataclasses import dataclass

import pytest
import torch
from ops_helpers import LAYOUTS
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.ops.adam import adam_step
from cyclegan_fast.ops.adam_inputs import AdamGroup, LossScale

LR, BETAS, EPS = 2e-3, (0.5, 0.999), 1e-2
SHAPES = [(1,), (7,), (64,), (3, 5, 3, 3), (16, 8, 4, 4), (5, 1, 1, 1), (1, 6, 7, 7), (40, 30, 5, 5)]
LIMIT = {torch.float64: 1e-12, torch.float32: 2e-6}  # of a weight, relative to its size and all its updates


Gradients = tuple[list[Tensor | None], list[Tensor | None]]  # of two cycles, one for each weight


@dataclass
class Group:
    """The tensors of one group; weights whose number is 4 modulo 5 never get a gradient."""

    weights: list[Tensor]
    exp_avg: list[Tensor]
    exp_avg_sq: list[Tensor]
    working: list[Tensor | None]
    step: Tensor
    loss: Tensor

    @classmethod
    def random(cls, shapes: list[tuple[int, ...]], dtype: torch.dtype, device: str, narrow: bool) -> Group:
        weights = [
            torch.randn(shape, dtype=dtype, device=device).to(memory_format=LAYOUTS[list(LAYOUTS)[i % 2]])
            if len(shape) == 4
            else torch.randn(shape, dtype=dtype, device=device)
            for i, shape in enumerate(shapes)
        ]
        types = itertools.cycle([torch.bfloat16, None, torch.float16])
        working = [w.to(kind) if narrow and kind else None for w, kind in zip(weights, types, strict=False)]
        moments = ([torch.zeros_like(w) for w in weights] for _ in range(2))
        return cls(
            weights, *moments, working, torch.zeros((), device=device), torch.ones((), dtype=dtype, device=device)
        )

    def random_gradients(self, scale: float = 1.0) -> Gradients:
        """In the type of the working weight; a third of them in one cycle alone."""
        lists: Gradients = ([], [])
        for i, (weight, working) in enumerate(zip(self.weights, self.working, strict=True)):
            like = weight if working is None else working
            for k, gradients in enumerate(lists):
                there = i % 5 != 4 and i % 3 != k
                gradients.append(torch.randn_like(like) * scale if there else None)
        return lists

    def described(self, gradients: Gradients) -> AdamGroup:
        state = self.weights, self.exp_avg, self.exp_avg_sq, self.working, self.step
        return AdamGroup(*state, *gradients, [self.loss, self.loss])

    def tensors(self) -> list[Tensor]:
        return [*self.weights, *self.exp_avg, *self.exp_avg_sq, *(w for w in self.working if w is not None), self.step]


def run(groups: list[Group], gradients: list[Gradients], **options: object) -> None:
    described = [group.described(of_one) for group, of_one in zip(groups, gradients, strict=True)]
    lr = torch.tensor(LR, dtype=torch.float64, device=groups[0].step.device)
    adam_step(described, lr=lr, betas=BETAS, eps=EPS, **options)  # type: ignore[arg-type]


def summed(gradients: Gradients) -> list[Tensor | None]:
    pairs = [[g.double() for g in pair if g is not None] for pair in zip(*gradients, strict=True)]
    return [sum(pair[1:], pair[0]) if pair else None for pair in pairs]


@pytest.mark.parametrize("reference", [False, True], ids=["kernel", "reference"])
@pytest.mark.parametrize(
    ("dtype", "narrow"),
    [(torch.float64, False), (torch.float32, False), (torch.float32, True)],
    ids=["float64", "float32", "working"],
)
def test_many_steps_equal_torchs(device: str, dtype: torch.dtype, narrow: bool, reference: bool) -> None:
    """More weights than a launch holds, in two groups; the second is skipped now and then."""
    shapes = [SHAPES, SHAPES * 9]
    groups = [Group.random(of_one, dtype, device, narrow) for of_one in shapes]
    exact = [[w.double().clone().requires_grad_() for w in group.weights] for group in groups]
    theirs = [torch.optim.Adam(weights, lr=LR, betas=BETAS, eps=EPS) for weights in exact]
    moved = torch.zeros((), dtype=torch.float64)
    for i in range(20):
        gradients = [group.random_gradients() for group in groups]
        groups[1].loss.fill_(float("inf") if i % 4 == 1 else 1.0)
        if reference:
            with ops.use_reference():
                run(groups, gradients)
        else:
            run(groups, gradients)
        for group, weights, adam, of_one in zip(groups, exact, theirs, gradients, strict=True):
            if not group.loss.isfinite():
                continue
            for weight, gradient in zip(weights, summed(of_one), strict=True):
                weight.grad = gradient
            adam.step()
        moved = moved + LR
    for group, weights, adam in zip(groups, exact, theirs, strict=True):
        for ours, expected, m, v in zip(group.weights, weights, group.exp_avg, group.exp_avg_sq, strict=True):
            state = adam.state[expected]
            expected = expected.detach()
            error = (ours.double() - expected).abs() / (expected.abs() + 20 * LR)
            assert error.max() <= LIMIT[dtype], tuple(ours.shape)
            for moment, name in ((m, "exp_avg"), (v, "exp_avg_sq")):
                wanted = state[name] if state else torch.zeros_like(expected)
                assert ((moment.double() - wanted).abs() / (1 + wanted.abs())).max() <= LIMIT[dtype], name
        assert group.step == 20 - (5 if group is groups[1] else 0)
        for ours, working in zip(group.weights, group.working, strict=True):
            assert working is None or working.equal(ours.to(working.dtype))


@pytest.mark.parametrize("reference", [False, True], ids=["kernel", "reference"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_group_that_is_not_finite_changes_no_bit(device: str, bad: float, scaled: bool, reference: bool) -> None:
    """Its loss, or one value of one gradient of either cycle; the other group moves."""
    groups = [Group.random(SHAPES, torch.float32, device, narrow=True) for _ in range(2)]
    for cycle, where in [*itertools.product(range(2), (0, 3, 7)), (None, 0)]:
        gradients = [group.random_gradients() for group in groups]
        if cycle is None:
            groups[1].loss.fill_(bad)
        else:
            of_one = [g for g in gradients[1][cycle] if g is not None]
            spoilt = of_one[where % len(of_one)]
            spoilt[(-1,) * spoilt.dim()] = bad
        loss_scale = LossScale(torch.tensor(8.0).to(device), torch.tensor(3, dtype=torch.int32).to(device), 2000)
        before = [copy.deepcopy(group.tensors()) for group in groups]
        with ops.use_reference() if reference else contextlib.nullcontext():
            run(groups, gradients, loss_scale=loss_scale if scaled else None)
        assert all(a.equal(b) for a, b in zip(groups[1].tensors(), before[1], strict=True))
        assert not any(a.equal(b) for a, b in zip(groups[0].weights[:4], before[0], strict=False))
        assert all(t.isfinite().all() for t in groups[0].tensors())
        if scaled:
            assert (loss_scale.scale, loss_scale.growth_tracker) == (4.0, 0)


def test_the_loss_scale_is_that_of_torchs_scaler(device: str) -> None:
    overflows = [0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    group = Group.random([(33,)], torch.float32, device, narrow=False)
    ours = LossScale(
        torch.tensor(1024.0, device=device), torch.tensor(0, dtype=torch.int32, device=device), growth_interval=3
    )
    weight = group.weights[0].clone().requires_grad_()
    theirs = torch.amp.GradScaler(device, init_scale=1024.0, growth_interval=3)
    adam = torch.optim.Adam([weight], lr=LR, betas=BETAS, eps=EPS)
    for overflow in overflows:
        gradient = torch.randn(33, device=device)
        (theirs.scale(weight) * gradient).sum().backward()
        assert weight.grad is not None
        if overflow:
            weight.grad[5] = float("inf")
        run([group], [([weight.grad.clone()], [None])], loss_scale=ours)
        theirs.step(adam)
        theirs.update()
        adam.zero_grad()
        assert ours.scale == theirs.get_scale()
        assert ours.growth_tracker == theirs._get_growth_tracker()
        assert (group.weights[0] - weight).abs().max() <= 1e-6


def test_scaled_gradients_in_fp16_may_overflow_when_summed(device: str) -> None:
    """The sum of both cycles is taken in float32: 65,504 twice is finite."""
    group = Group.random([(9,)], torch.float32, device, narrow=True)
    group.working = [group.weights[0].half()]
    largest = torch.full((9,), 65504.0, dtype=torch.float16, device=device)
    before = group.weights[0].clone()
    scale = LossScale(torch.tensor(2.0**16).to(device), torch.tensor(0, dtype=torch.int32).to(device), 2000)
    run([group], [([largest], [largest])], loss_scale=scale)
    first = LR * 2 / (2 + EPS)  # lr g / (|g| + eps), of g = 1.999
    assert (before - group.weights[0] - first).abs().max() <= 1e-6


def test_any_number_of_threads_gives_the_same_bits() -> None:
    if not ops.extension_available():
        pytest.skip(str(ops.extension_error()))
    group = Group.random([(257, 128, 3, 3), (5,)], torch.float32, "cpu", narrow=True)
    gradients = group.random_gradients()
    results, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            mine = copy.deepcopy(group)
            run([mine], [gradients])
            results.append(mine.tensors())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(a.equal(b) for a, b in zip(results[0], other, strict=True))


def test_the_change_is_noted(device: str) -> None:
    """Whoever looks at the version of a weight, as autograd does, sees the update."""
    group = Group.random([(3,), (4,)], torch.float32, device, narrow=True)
    versions = [t._version for t in (*group.weights, group.working[0])]
    run([group], [group.random_gradients()])
    assert [t._version for t in (*group.weights, group.working[0])] == [version + 1 for version in versions]


def test_opcheck(device: str) -> None:
    group = Group.random([(3,), (4, 2, 3, 3)], torch.float32, device, narrow=True)
    like = [w if working is None else working for w, working in zip(group.weights, group.working, strict=True)]
    lr = torch.tensor(LR, dtype=torch.float64, device=device)
    arguments = (
        *(group.weights, group.exp_avg, group.exp_avg_sq, [0, 0], [torch.randn_like(w) for w in like]),
        *([torch.randn_like(like[1])], [1], [group.working[0]], [0], [group.loss], [0], [group.step], lr),
        *(*BETAS, EPS, torch.tensor(2.0, device=device), torch.tensor(0, dtype=torch.int32, device=device), 3),
    )
    torch.library.opcheck(torch.ops.cyclegan_fast.adam_step, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp_avg": [torch.zeros(4)]}, "exp_avg must have the shape, the layout and the device of its weight"),
        ({"exp_avg_sq": [torch.zeros(6)[::2]]}, "exp_avg_sq must have the shape, the layout"),
        ({"exp_avg": [torch.zeros(3, dtype=torch.float64)]}, "all weights and moments must have one type"),
        ({"gradients": [torch.zeros(3, dtype=torch.float64)]}, "gradients are float64 where the weights are"),
        ({"other_gradients": [torch.zeros(3).half()]}, "both gradients of a weight must have one type"),
        ({"working": [torch.zeros(3)]}, "working weights are 16-bit copies"),
        ({"losses": [torch.zeros((), dtype=torch.float64)]}, "a loss must be one number of the right type"),
        ({"step": torch.zeros((), dtype=torch.int64)}, "a step count must be one number of the right type"),
        ({"weights": [torch.zeros(3).half()]}, "the weights must be float32 or float64"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    if not ops.extension_available():
        pytest.skip(str(ops.extension_error()))
    good = AdamGroup(
        *([torch.zeros(3)], [torch.zeros(3)], [torch.zeros(3)], [None], torch.zeros(())),
        *([torch.zeros(3)], [], [torch.zeros(())]),
    )
    with pytest.raises(RuntimeError, match=message):
        adam_step([good._replace(**change)], lr=torch.tensor(LR, dtype=torch.float64), betas=BETAS, eps=EPS)  # type: ignore[arg-type]
