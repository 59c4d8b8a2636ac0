"""Which checkpoints are removed: the newest, the milestones and the best stay."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclegan_fast.checkpoint.retention import Retention, Scored

SCORED: list[Scored] = [  # six checkpoints; swd is best (lowest) at 300, then at 500; ssim at 200
    (100, {"swd": 9.0, "ssim": 0.1}),
    (200, {"swd": 5.0, "ssim": 0.9}),
    (300, {"swd": 1.0, "ssim": 0.5}),
    (400, {}),
    (500, {"swd": 2.0, "ssim": 0.5}),
    (600, {"swd": math.nan, "ssim": 0.2}),
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
    assert Retention(**keep).to_remove(SCORED) == {step for step, _ in SCORED} - set(left)


def test_the_untrained_checkpoint_is_no_milestone() -> None:
    assert Retention(newest=1, every=5).to_remove([(0, {}), (5, {}), (6, {})]) == {0}


def test_a_checkpoint_is_among_the_best_or_not() -> None:
    keep = Retention(newest=1, best=2, **LOWEST)
    assert keep.is_among_best((700, {"swd": 1.5}), SCORED)
    assert not keep.is_among_best((700, {"swd": 2.0}), SCORED), "an equal earlier one comes first"
    assert not keep.is_among_best((700, {"swd": math.nan}), SCORED)
    assert not keep.is_among_best((700, {}), SCORED)
    assert keep.is_among_best((300, {"swd": 1.5}), SCORED), "itself does not count against it"
    assert not Retention(newest=1, **LOWEST).is_among_best((700, {"swd": 0.0}), SCORED)


scores = st.dictionaries(st.sampled_from(["a", "b"]), st.floats() | st.sampled_from([0.0, 1.0]))
folders = st.dictionaries(st.integers(0, 60), scores, min_size=1, max_size=12)
retentions = st.builds(
    Retention,
    newest=st.integers(1, 4),
    every=st.integers(0, 7),
    best=st.integers(0, 4),
    score=st.sampled_from(["a", "b"]),
    higher_is_better=st.booleans(),
)


@given(folders, retentions)
def test_of_any_checkpoints_the_promised_ones_stay_and_no_others(
    folder: dict[int, dict[str, float]], keep: Retention
) -> None:
    checkpoints = list(folder.items())
    removed = keep.to_remove(checkpoints)
    left = set(folder) - removed
    assert removed <= set(folder) and max(folder) in left
    assert keep.to_remove([(step, found) for step, found in checkpoints if step in left]) == set(), "it is stable"

    def better(step: int) -> int:
        """How many checkpoints are better than that of a step."""
        sign = -1 if keep.higher_is_better else 1
        values = {s: sign * v for s, f in folder.items() if math.isfinite(v := f.get(keep.score, math.nan))}
        return sum((v, s) < (values[step], step) for s, v in values.items()) if step in values else 99

    for step in folder:
        newer = sum(other > step for other in folder)
        milestone = keep.every > 0 and step > 0 and step % keep.every == 0
        assert (step in left) == (newer < keep.newest or milestone or better(step) < keep.best)


@given(st.lists(scores, min_size=1, max_size=15), retentions)
def test_removing_as_a_run_goes_on_keeps_what_removing_at_its_end_would(
    history: list[dict[str, float]], keep: Retention
) -> None:
    everything = list(enumerate(history, 1))
    folder: list[Scored] = []
    for checkpoint in everything:
        folder.append(checkpoint)
        removed = keep.to_remove(folder)
        folder = [one for one in folder if one[0] not in removed]
    assert {step for step, _ in everything} - {step for step, _ in folder} == keep.to_remove(everything)
