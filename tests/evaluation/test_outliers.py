"""Images that stand out: by which score, from how many, and where nothing varies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cyclegan_fast.evaluation.outliers import LIMIT, RULES, Distribution

USUAL = {
    "cycle": 0.02,
    "after_noise": 0.025,
    "hidden": 1.2,
    "gradient_correlation": 0.7,
    "mutual_information": 1.5,
}


def scores(count: int, seed: int = 0) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    return [{name: value * math.exp(rng.normal(0, 0.1)) for name, value in USUAL.items()} for _ in range(count)]


def test_deviations_are_robust_standard_deviations() -> None:
    many = scores(200)
    distribution = Distribution.of(many)
    values = np.log([one["cycle"] for one in many])
    centre = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - centre))
    found = distribution.deviations(many[0] | {"cycle": 0.04})
    assert found["cycle"] == pytest.approx((math.log(0.04) - centre) / spread)
    kept = [one["gradient_correlation"] for one in many]
    spread = 1.4826 * np.median(np.abs(kept - np.median(kept)))
    worse = distribution.deviations(many[0] | {"gradient_correlation": 0.1})["gradient_correlation"]
    assert worse == pytest.approx((np.median(kept) - 0.1) / spread)


@pytest.mark.parametrize(("name", "value"), [("cycle", 0.1), ("after_noise", 0.2), ("hidden", 4.0)])
def test_a_larger_error_stands_out_and_a_smaller_one_does_not(name: str, value: float) -> None:
    distribution = Distribution.of(scores(30))
    assert [RULES[name].reason in why for why in distribution.reasons(USUAL | {name: value})] == [True]
    assert distribution.reasons(USUAL | {name: USUAL[name] ** 2 / value}) == []


@pytest.mark.parametrize("name", ["gradient_correlation", "mutual_information"])
def test_less_structure_stands_out_and_more_does_not(name: str) -> None:
    distribution = Distribution.of(scores(30))
    (why,) = distribution.reasons(USUAL | {name: 0.0})
    assert RULES[name].reason in why
    assert distribution.reasons(USUAL | {name: 5.0}) == []


def test_usual_images_rarely_stand_out_and_outliers_do_not_hide_each_other() -> None:
    many = scores(400)
    distribution = Distribution.of(many)
    assert sum(bool(distribution.reasons(one)) for one in many) <= 8
    bad = [USUAL | {"cycle": 0.3} for _ in range(150)]
    assert all(Distribution.of(many + bad).reasons(one) for one in bad)


def test_equal_images_do_not_stand_out_for_a_difference_that_is_none() -> None:
    distribution = Distribution.of([USUAL] * 20)
    assert distribution.reasons({name: value * 1.01 for name, value in USUAL.items()}) == []
    perfect = Distribution.of([USUAL | {"cycle": 0.0}] * 20)
    assert perfect.reasons(USUAL | {"cycle": 1e-5}) == [] and perfect.reasons(USUAL | {"cycle": 0.01})


def test_few_images_have_no_flags() -> None:
    assert Distribution.of(scores(7)).reasons(USUAL | {"cycle": 0.9}) == []
    assert Distribution.of(scores(8)).reasons(USUAL | {"cycle": 0.9})


def test_nan_stands_out_and_spoils_nothing() -> None:
    distribution = Distribution.of([*scores(20), USUAL | {"cycle": math.nan}])
    assert distribution.reasons(USUAL | {"cycle": math.nan}) == ["not a number"]
    assert distribution.reasons(USUAL) == []
    assert max(distribution.deviations(USUAL | {"hidden": math.nan}).values()) == math.inf > LIMIT
