from __future__ import annotations

import math

import pytest

from cyclegan_fast.config import OptimConfig
from cyclegan_fast.training.schedule import LearningRate, scaled_learning_rate
from tests.plain.step import plain_learning_rate


def test_linear_is_the_recipes() -> None:
    schedule = LearningRate(OptimConfig())
    assert [schedule.at(e) for e in range(1, 201)] == pytest.approx([plain_learning_rate(e) for e in range(1, 201)])
    assert schedule.at(100) == 2e-4
    assert schedule.at(200) == pytest.approx(2e-4 / 101)


def test_step_and_cosine() -> None:
    step = LearningRate(OptimConfig(lr_policy="step", lr_decay_iters=30))
    assert [step.at(e) for e in (1, 30, 31, 61)] == pytest.approx([2e-4, 2e-4, 2e-5, 2e-6])
    cosine = LearningRate(OptimConfig(lr_policy="cosine"))
    assert [cosine.at(e) for e in (1, 101)] == pytest.approx([2e-4, 1e-4])
    assert cosine.at(200) == pytest.approx(1e-4 * (1 + math.cos(math.pi * 199 / 200)))


def test_plateau_drops_after_six_epochs_without_a_better_loss_and_resumes() -> None:
    schedule = LearningRate(OptimConfig(lr_policy="plateau"))
    for loss in [2.0, 1.0, *[0.995] * 5]:
        schedule.observe(loss)
    assert schedule.at(8) == 2e-4
    resumed = LearningRate(OptimConfig(lr_policy="plateau"))
    resumed.load_state_dict(schedule.state_dict())
    for s in (schedule, resumed):
        s.observe(0.995)
        assert s.at(9) == pytest.approx(4e-5)


def test_the_rate_grows_with_the_images_of_an_update_by_the_rule_in_every_policy() -> None:
    assert [scaled_learning_rate(2e-4, 16, rule) for rule in ("none", "sqrt", "linear")] == [2e-4, 8e-4, 3.2e-3]
    for policy in ("linear", "step", "plateau", "cosine"):
        plain = LearningRate(OptimConfig(lr_policy=policy, batch_size=2, grad_accumulation=8))
        scaled = LearningRate(OptimConfig(lr_policy=policy, batch_size=2, grad_accumulation=8, lr_rule="sqrt"))
        assert [scaled.at(e) for e in (1, 120, 200)] == pytest.approx([4 * plain.at(e) for e in (1, 120, 200)])


def test_the_rule_counts_the_images_of_all_devices() -> None:
    assert LearningRate(OptimConfig(lr_rule="linear", batch_size=2), images_per_update=8).at(1) == pytest.approx(1.6e-3)
