"""The two cycles of a step give the same bits side by side and one after the other."""

from __future__ import annotations

import copy
import dataclasses
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.config import ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.ops.extension import runs_reference
from cyclegan_fast.training.concurrency import TwoThreads, choose_concurrency, sequential, why_not_side_by_side
from cyclegan_fast.training.step import CycleGANStep

CPU = torch.device("cpu")
MODEL = ModelConfig(generator="resnet_2blocks", discriminator="n_layers", n_layers=2, ngf=6, ndf=5)


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def make_config(**groups: Any) -> TrainConfig:
    return TrainConfig(model=MODEL, **groups)


def make_images(batch: int = 1) -> Tensor:
    return (torch.rand(batch, 3, 32, 24) * 2 - 1).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("mode", ["lsgan", "hinge"])
def test_threads_change_no_bit(two_cores: None, mode: str, micro_batches: int) -> None:
    config = make_config(
        objective=ObjectiveConfig(pool_size=3, gan_mode=mode),  # type: ignore[arg-type]
        optim=OptimConfig(grad_accumulation=micro_batches),
        run=RunConfig(side_by_side="on"),
    )
    networks = build_networks(MODEL).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    beside = CycleGANStep(copy.deepcopy(networks), config)
    assert isinstance(beside.choose_runner(make_images()), TwoThreads)
    alone = CycleGANStep(networks, dataclasses.replace(config, run=RunConfig(side_by_side="off")))
    for _ in range(8):
        real = make_images(micro_batches), make_images(micro_batches)
        torch.set_num_threads(2)
        images, losses = beside(*real)
        torch.set_num_threads(1)  # as many as each of the two has
        expected_images, expected = alone(*real)
        assert list(losses) == list(expected)
        assert all(losses[name].equal(value) for name, value in expected.items())
        assert all(images[name].equal(value) for name, value in expected_images.items())
    pairs = zip(beside.networks.state_dict().items(), alone.networks.state_dict().values(), strict=True)
    assert all(ours.equal(theirs) for (_, ours), theirs in pairs)


def test_two_threads_have_half_of_the_cores_and_the_callers_settings(two_cores: None) -> None:
    together = threading.Barrier(2, timeout=30)  # breaks unless both run at once

    def probe() -> tuple[int, int, bool]:
        together.wait()
        return threading.get_ident(), torch.get_num_threads(), runs_reference(torch.empty(0))

    run_both = TwoThreads()
    (first, cores, reference), (second, *_) = run_both(probe, probe)
    assert len({first, second, threading.get_ident()}) == 3
    assert cores == 1
    assert reference == (not ops.build_info())
    with ops.use_reference():
        assert run_both(probe, probe)[1][2]


def test_a_fault_in_a_thread_reaches_the_caller_after_both_have_ended(two_cores: None) -> None:
    ended = []

    def fail() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        TwoThreads()(fail, lambda: ended.append(True))
    assert ended


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, ""),
        ({"model": {"model": "pix2pix"}}, "pix2pix trains one direction"),
        ({"model": {"model": "bigan"}}, "BiGAN trains both directions in one pass"),
        ({"model": {"model": "cogan"}}, "CoGAN trains both directions in one pass"),
        ({"model": {"model": "simgan"}}, ""),
        ({"model": {"norm": "batch"}}, "running statistics"),
        ({"model": {"dropout": True}}, "one random generator"),
        ({"objective": {"gan_mode": "wgangp"}}, "one random generator"),
        ({"run": {"compile": True}}, "--compile"),
    ],
)
def test_cycles_that_share_state_run_one_after_the_other(two_cores: None, changed: dict, reason: str) -> None:
    config = make_config()
    for group, values in changed.items():
        config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **values)})
    found = why_not_side_by_side(config, CPU)
    assert reason in found and bool(reason) == bool(found)
    assert (choose_concurrency(config, CPU)(make_images()) is sequential) == bool(reason)


def test_one_core_is_not_divided() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert why_not_side_by_side(make_config(), CPU) == "there is one thread"
    finally:
        torch.set_num_threads(before)


def test_large_images_run_one_after_the_other_by_default(two_cores: None) -> None:
    small, large = torch.empty(1, 3, 128, 128), torch.empty(1, 3, 128, 132)
    auto = choose_concurrency(make_config(), CPU)
    assert isinstance(auto(small), TwoThreads)
    assert auto(large) is sequential
    assert isinstance(choose_concurrency(make_config(run=RunConfig(side_by_side="on")), CPU)(large), TwoThreads)
    assert choose_concurrency(make_config(run=RunConfig(side_by_side="off")), CPU)(small) is sequential
    in_two = choose_concurrency(make_config(optim=OptimConfig(grad_accumulation=2)), CPU)
    assert isinstance(in_two(large.expand(2, -1, -1, -1)[..., :128]), TwoThreads)


class Saved:
    """A tensor that waits for the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_one_after_the_other_the_first_cycle_frees_its_activations() -> None:
    step = CycleGANStep(build_networks(MODEL), make_config(run=RunConfig(side_by_side="off")))
    alive: weakref.WeakSet[Saved] = weakref.WeakSet()
    peak = [0]

    def save(tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        alive.add(saved)
        peak[0] = max(peak[0], len(alive))
        return saved

    at_start = []
    run_cycle = step.run_cycle

    def watched(*args: Any, **options: Any) -> Any:
        at_start.append(len(alive))
        return run_cycle(*args, **options)

    step.run_cycle = watched  # type: ignore[method-assign]
    with torch.autograd.graph.saved_tensors_hooks(save, lambda saved: saved.tensor):
        step(make_images(), make_images())
    assert at_start == [0, 0]
    assert peak[0] > 20 and not alive
