"""Which checkpoints are removed: the newest, the milestones and the best stay."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclegan_fast.checkpoint.retention import Retention, Scored

SCORED: list[Scored] = [  # six checkpoints; swd is best (lowest) at 300, then at 500; ssim at 200
    Scored(100, {"swd": 9.0, "ssim": 0.1}),
    Scored(200, {"swd": 5.0, "ssim": 0.9}),
    Scored(300, {"swd": 1.0, "ssim": 0.5}),
    Scored(400, {}),
    Scored(500, {"swd": 2.0, "ssim": 0.5}),
    Scored(600, {"swd": math.nan, "ssim": 0.2}),
]
LOWEST = {"score": "swd", "higher_is_better": False}
HIGHEST = {"score": "ssim", "higher_is_better": True}


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ({}, [100, 200, 300, 400, 500, 600]),
        ({"best": 1, "every": 200}, [100, 200, 300, 400, 500, 600]),  # 0 of the newest: all
        ({"newest": 1}, [600]),
        ({"newest": 9}, [100, 200, 300, 400, 500, 600]),
        ({"newest": 2, "every": 200}, [200, 400, 500, 600]),
        ({"newest": 1, "best": 1, **LOWEST}, [300, 600]),
        ({"newest": 2, "best": 2, **LOWEST}, [300, 500, 600]),  # 500 is both
        ({"newest": 1, "best": 9, **LOWEST}, [100, 200, 300, 500, 600]),  # those without the score are no best
        ({"newest": 1, "best": 1, **HIGHEST}, [200, 600]),
        ({"newest": 1, "best": 2, **HIGHEST}, [200, 300, 600]),  # of two equal ones the earlier
        ({"newest": 1, "best": 1, "every": 500, **LOWEST}, [300, 500, 600]),
        ({"newest": 1, "best": 3, "score": "unknown"}, [600]),
    ],
)
def test_what_is_left(keep: dict[str, Any], left: list[int]) -> None:
    assert Retention(**keep).to_remove(SCORED) == {checkpoint.step for checkpoint in SCORED} - set(left)


def test_the_untrained_checkpoint_is_no_milestone() -> None:
    assert Retention(newest=1, every=5).to_remove([Scored(0), Scored(5), Scored(6)]) == {0}


def test_scores_of_another_protocol_do_not_compare() -> None:
    """The run was resumed with other --eval-images: the best of before stays, and the best of now as well."""
    keep = Retention(newest=1, best=1, **LOWEST)
    before, now = [Scored(i, {"swd": float(i)}, "50 images") for i in (1, 2)], Scored(3, {"swd": 9.0}, "5 images")
    assert keep.is_among_best(now, before)
    assert keep.to_remove([*before, now, Scored(4)]) == {2}


def test_a_checkpoint_is_among_the_best_or_not() -> None:
    keep = Retention(newest=1, best=2, **LOWEST)
    assert keep.is_among_best(Scored(700, {"swd": 1.5}), SCORED)
    assert not keep.is_among_best(Scored(700, {"swd": 2.0}), SCORED), "an equal earlier one comes first"
    assert not keep.is_among_best(Scored(700, {"swd": math.nan}), SCORED)
    assert not keep.is_among_best(Scored(700), SCORED)
    assert keep.is_among_best(Scored(300, {"swd": 1.5}), SCORED), "itself does not count against it"
    assert not Retention(newest=1, **LOWEST).is_among_best(Scored(700, {"swd": 0.0}), SCORED)


values = st.floats() | st.sampled_from([0.0, 1.0])
checkpoint = st.builds(
    Scored,
    step=st.integers(0, 60),
    scores=st.dictionaries(st.sampled_from(["a", "b"]), values),
    protocol=st.sampled_from(["", "of 50 images"]),
)
folders = st.lists(checkpoint, min_size=1, max_size=12, unique_by=lambda one: one.step)
retentions = st.builds(
    Retention,
    newest=st.integers(1, 4),
    every=st.integers(0, 7),
    best=st.integers(0, 4),
    score=st.sampled_from(["a", "b"]),
    higher_is_better=st.booleans(),
)


@given(folders, retentions)
def test_of_any_checkpoints_the_promised_ones_stay_and_no_others(folder: list[Scored], keep: Retention) -> None:
    removed = keep.to_remove(folder)
    left = [one for one in folder if one.step not in removed]
    assert max(one.step for one in folder) not in removed and removed <= {one.step for one in folder}
    assert keep.to_remove(left) == set(), "it is stable"

    def value(one: Scored) -> float:
        found = one.scores.get(keep.score, math.nan)
        return (-found if keep.higher_is_better else found) if math.isfinite(found) else math.nan

    for one in folder:
        newer = sum(other.step > one.step for other in folder)
        milestone = keep.every > 0 and one.step > 0 and one.step % keep.every == 0
        rivals = [other for other in folder if other.protocol == one.protocol]
        better = sum(
            value(other) < value(one) or (value(other) == value(one) and other.step < one.step) for other in rivals
        )
        is_best = math.isfinite(value(one)) and better < keep.best
        assert (one in left) == (newer < keep.newest or milestone or is_best)


@given(folders, retentions)
def test_removing_as_a_run_goes_on_keeps_what_removing_at_its_end_would(history: list[Scored], keep: Retention) -> None:
    folder: list[Scored] = []
    for checkpoint in sorted(history):
        folder.append(checkpoint)
        removed = keep.to_remove(folder)
        folder = [one for one in folder if one.step not in removed]
    assert {one.step for one in history} - {one.step for one in folder} == keep.to_remove(history)
