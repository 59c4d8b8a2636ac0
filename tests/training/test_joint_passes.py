"""Both passes of a generator with one weight gradient for each of its convolutions: the same step, fewer launches."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.config import ModelConfig, ObjectiveConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.ops import instance_norm_autograd, joint_passes
from cyclegan_fast.ops.joint_passes import Geometry, JointPasses
from cyclegan_fast.training import joint_gradients
from cyclegan_fast.training import step as training_step
from cyclegan_fast.training.step import CycleGANStep

pytestmark = pytest.mark.skipif(not ops.extension_available(), reason="no extension")


def make_step(
    monkeypatch: pytest.MonkeyPatch, *, joint: bool, model: dict[str, Any], objective: dict[str, Any]
) -> CycleGANStep:
    """A step in float64, whose convolutions are torch's; with joint passes also where there is no CUDA."""
    torch.manual_seed(5)
    config = TrainConfig(
        model=ModelConfig(ngf=4, ndf=4, **model),
        objective=ObjectiveConfig(pool_size=2, **objective),
        run=RunConfig(side_by_side="off"),
    )
    networks = build_networks(config.model).double().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    monkeypatch.setattr(training_step, "joins_passes", lambda *arguments: joint)
    return CycleGANStep(networks, config)


def images(number: int) -> Tensor:
    return (torch.rand(number, 3, 32, 36, dtype=torch.float64) * 2 - 1).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("objective", [{}, {"lambda_identity": 0.0}, {"gan_mode": "wgangp"}], ids=str)
@pytest.mark.parametrize(
    "model",
    [{"generator": "resnet_2blocks"}, {"generator": "resnet_1blocks", "dropout": True}],
    ids=["resnet", "dropout"],
)
def test_a_step_with_joint_passes_is_the_same_step(
    monkeypatch: pytest.MonkeyPatch, number: int, objective: dict[str, Any], model: dict[str, Any]
) -> None:
    plain, joined = (make_step(monkeypatch, joint=joint, model=model, objective=objective) for joint in (False, True))
    batches = [(images(number), images(number)) for _ in range(3)]
    for step in (plain, joined):
        torch.manual_seed(7)  # dropout draws alike
        for batch in batches:
            _, losses = step(*batch)
            assert all(loss.isfinite() for loss in losses.values())
    for (name, one), (_, other) in zip(
        plain.networks.named_parameters(), joined.networks.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=name)


def test_a_weight_between_two_norms_has_one_gradient_for_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a block's two convolutions, and of those that halve and double the sides; not of stem and head."""
    step = make_step(monkeypatch, joint=True, model={"generator": "resnet_1blocks"}, objective={})
    found: list[int] = []
    weight_gradient = joint_passes._weight_gradient

    def watched(weight: Tensor, passes: list[Any]) -> Tensor:
        found.append(len(passes))
        return weight_gradient(weight, passes)

    monkeypatch.setattr(joint_passes, "_weight_gradient", watched)
    for _ in range(2):  # the first one, too: a run that is resumed there goes on in the same bits
        step(images(1), images(1))
        assert found == [2] * 12  # six convolutions of two generators
        found.clear()


def test_the_joint_tensors_are_gone_after_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step(monkeypatch, joint=True, model={"generator": "resnet_1blocks"}, objective={})
    for _ in range(2):
        step(images(1), images(1))
    for passes in step.joint.passes.values():
        assert not passes._joint and not passes._deferred
    step.cycle_B.pool.exchange = None  # a step that fails
    with pytest.raises(TypeError):
        step(images(1), images(1))
    for passes in step.joint.passes.values():
        assert not passes._joint and not passes._deferred


def test_a_step_leaves_no_graph_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of autograd's nodes, which hold the activations: none waits for a garbage collection."""
    step = make_step(monkeypatch, joint=True, model={"generator": "resnet_1blocks"}, objective={})
    step(images(1), images(1))
    saved: list[weakref.ref[Tensor]] = []
    save = instance_norm_autograd._save

    def watched(ctx: Any, inputs: Any, output: Any) -> None:
        saved.extend(weakref.ref(tensor) for tensor in (inputs.x, *output))
        save(ctx, inputs, output)

    monkeypatch.setattr(instance_norm_autograd, "_save", watched)
    gc.disable()
    try:
        step(images(1), images(1))
        assert len(saved) > 20 and not [reference for reference in saved if reference() is not None]
    finally:
        gc.enable()


def test_larger_batches_run_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step(monkeypatch, joint=True, model={"generator": "resnet_1blocks"}, objective={})
    monkeypatch.setattr(joint_gradients, "MAX_PIXELS", 32 * 36)
    step(images(1), images(1))
    begun: list[int] = []
    allocated = JointPasses.allocated
    monkeypatch.setattr(
        JointPasses, "allocated", lambda passes, number: begun.append(number) or allocated(passes, number)
    )
    step(images(2), images(2))
    assert begun == []
    step(images(1), images(1))
    assert begun == [3, 3]


@pytest.mark.parametrize(
    ("settings", "joins"),
    [
        ({}, True),
        ({"run.side_by_side": "off"}, False),
        ({"run.compile": True}, False),
        ({"run.activation_checkpointing": True}, False),
        ({"optim.grad_accumulation": 2}, False),
        ({"model.norm": "batch"}, False),
        ({"objective.lambda_B": 0.0}, False),
        ({"data.preprocess": "none"}, False),
    ],
    ids=str,
)
def test_where_passes_are_joint(settings: dict[str, Any], joins: bool) -> None:
    config = TrainConfig()
    for name, value in settings.items():
        group, field = name.split(".")
        config = replace(config, **{group: replace(getattr(config, group), **{field: value})})
    assert joint_gradients.joins_passes(config, torch.device("cuda")) == joins
    assert not joint_gradients.joins_passes(config, torch.device("cpu"))


def test_passes_that_do_not_lie_side_by_side_are_an_error() -> None:
    x, y = torch.zeros(4, 3, 5, 5), torch.zeros(4, 3, 5, 5)
    assert joint_passes._joined([x[2:3], x[:2]]).shape == (3, 3, 5, 5)
    for parts in ([x[:1], x[2:3]], [x[:1], y[1:2]]):
        with pytest.raises(RuntimeError, match="side by side"):
            joint_passes._joined(parts)


@pytest.mark.parametrize("transposed", [False, True])
def test_outside_of_a_pass_there_is_no_joint_convolution(transposed: bool) -> None:
    x, weight = torch.rand(1, 4, 6, 6), torch.rand(4, 4, 3, 3, requires_grad=True)
    assert joint_passes.convolution(x, weight, Geometry(1, 1, transposed)) is None


def test_a_second_thread_is_in_no_pass() -> None:
    from concurrent.futures import ThreadPoolExecutor

    x = torch.rand(1, 2, 4, 4)
    with JointPasses().next_pass(), ThreadPoolExecutor(1) as thread:
        assert joint_passes._thread.current is not None
        assert thread.submit(lambda: joint_passes._thread.current).result() is None
        assert joint_passes.next_slot(x, 0) is None  # there are no joint tensors yet


def test_a_copy_of_the_step_has_passes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step(monkeypatch, joint=True, model={"generator": "resnet_1blocks"}, objective={})
    other = copy.deepcopy(step)
    assert not set(map(id, step.joint.passes.values())) & set(map(id, other.joint.passes.values()))
