"""The table's arithmetic, by hand, and where its order is the paper's."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cyclegan_fast.errors import UserError
from cyclegan_fast.studies.markdown import as_markdown, table
from cyclegan_fast.studies.results import Results, as_json, mean_and_spread, verdict
from cyclegan_fast.studies.variants import ABLATION, OF_THE_PAPER, STUDIES, TASKS, Claim, Study, Variant

ONE = Variant("one", "One", {}, {"labels_to_photo": (0.5, 0.2, 0.1), "photo_to_labels": (0.4, 0.1, 0.1)})
OTHER = Variant("other", "Other", {"lambda_A": 0.0}, {"labels_to_photo": (0.3, 0.2, 0.05)})
UNPUBLISHED = Variant("unpublished", "Unpublished", {})
STUDY = Study("pair", "A pair", "table 0", (ONE, OTHER, UNPUBLISHED))


def scored(*values: float) -> dict[int, dict[str, Any]]:
    """One seed for each value, which is the pixel accuracy; the other scores are fixed."""
    others = {"class_accuracy": 0.25, "class_iou": 0.125}
    return {seed: dict.fromkeys(TASKS, {"pixel_accuracy": value} | others) for seed, value in enumerate(values)}


def results(one: tuple[float, ...], other: tuple[float, ...], study: Study = STUDY) -> Results:
    references = {
        "untranslated": {task: {"pixel_accuracy": 0.0625} for task in TASKS},
        "one_map": {"pixel_accuracy": 0.5, "class_iou": 0.25},
        "truth": {"labels_to_photo": {"pixel_accuracy": 0.9375}, "photo_to_labels": {"color": 0.0}},
    }
    return Results(study, 32, 1000, {"one": scored(*one), "other": scored(*other)}, references)


def test_mean_and_spread_by_hand() -> None:
    mean, spread = mean_and_spread([0.5, 0.7, 0.6])
    assert mean == pytest.approx(0.6) and spread == pytest.approx(0.1)  # sqrt((0.01 + 0.01 + 0) / 2)
    assert mean_and_spread([0.5]) == (0.5, None)
    assert mean_and_spread([0.25, 0.75])[1] == pytest.approx(math.sqrt(0.125))


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        ([0.5, 0.6, 0.7], [0.2, 0.3, 0.4], "same"),
        ([0.2, 0.3, 0.4], [0.5, 0.6, 0.7], "reversed"),
        ([0.2, 0.6, 0.7], [0.3, 0.3, 0.3], "undecided"),  # the means are far apart, the seeds are not
        ([0.4, 0.6, 0.7], [0.2, 0.3, 0.4], "undecided"),  # one pair is equal
        ([0.6, 0.7], [0.1, 0.2, 0.3], "undecided"),  # too few seeds
    ],
)
def test_an_order_is_claimed_where_every_seed_agrees(better: list[float], worse: list[float], expected: str) -> None:
    assert verdict(better, worse, higher_is_better=True) == expected
    lower = [[-value for value in values] for values in (better, worse)]
    assert verdict(*lower, higher_is_better=False) == expected


def test_the_paper_orders_what_it_has_different_numbers_for() -> None:
    """Class accuracy is equal, and photo -> labels has one variant alone."""
    assert STUDY.claims() == [
        Claim("labels_to_photo", "pixel_accuracy", "one", "other", (0.5, 0.3)),
        Claim("labels_to_photo", "class_iou", "one", "other", (0.1, 0.05)),
    ]


def test_the_order_is_compared_with_the_papers() -> None:
    judged = results((0.2, 0.3, 0.4), (0.5, 0.6, 0.7)).judge()
    assert [(each.claim.metric, each.verdict) for each in judged] == [
        ("pixel_accuracy", "reversed"),
        ("class_iou", "undecided"),  # equal here
    ]
    assert judged[0].means == (pytest.approx(0.3), pytest.approx(0.6))


MARKDOWN = """\
Scenes of 32x32 pixels, 1,000 steps of batch 1, seeds 0 1 2; the mean ± the standard deviation over the seeds. In \
parentheses the paper's number, on Cityscapes at 128x128 pixels.

**labels → photo**

|  | pixel accuracy ↑ | class accuracy ↑ | class IoU ↑ |
| --- | ---: | ---: | ---: |
| One | 0.300 ± 0.100 (.50) | 0.250 ± 0.000 (.20) | 0.125 ± 0.000 (.10) |
| Other | 0.600 ± 0.100 (.30) | 0.250 ± 0.000 (.20) | 0.125 ± 0.000 (.05) |
| Unpublished | - | - | - |
| untranslated | 0.062 |  |  |
| one map for all | 0.500 |  | 0.250 |
| the truth | 0.938 |  |  |

**photo → labels**

|  | pixel accuracy ↑ | class accuracy ↑ | class IoU ↑ |
| --- | ---: | ---: | ---: |
| One | 0.300 ± 0.100 (.40) | 0.250 ± 0.000 (.10) | 0.125 ± 0.000 (.10) |
| Other | 0.600 ± 0.100 | 0.250 ± 0.000 | 0.125 ± 0.000 |
| Unpublished | - | - | - |
| untranslated | 0.062 |  |  |
| one map for all | 0.500 |  | 0.250 |

The paper orders 2 pairs of variants and scores. Here 0 are in its order by every seed, 1 in the reverse one by every \
seed, and in 1 the seeds overlap: there is no claim.

- labels → photo: Other is better than One here, by pixel accuracy 0.600 to 0.300 (the paper: .30 to .50)
"""


def test_the_table_beside_the_papers_numbers() -> None:
    assert "\n".join(as_markdown(results((0.2, 0.3, 0.4), (0.5, 0.6, 0.7)))) + "\n" == MARKDOWN


def test_nothing_is_claimed_of_few_seeds() -> None:
    lines = as_markdown(results((0.2, 0.3), (0.5, 0.6)))
    assert lines[-1] == "With fewer than 3 seeds no order is claimed."
    assert as_markdown(results((0.2, 0.3, 0.4), (0.9, 0.9)))[-1] == lines[-1]
    assert table(results((0.2,), (0.5,)), "photo_to_labels")[1][0][1] == "0.200 (.40)"


def test_json_has_every_number() -> None:
    found = as_json(results((0.2, 0.3, 0.4), (0.5, 0.6, 0.7)))
    assert (found["study"], found["size"], found["steps"]) == ("pair", 32, 1000)
    other = found["variants"]["other"]
    assert other["settings"] == {"lambda_A": 0.0} and other["paper"] == {"labels_to_photo": [0.3, 0.2, 0.05]}
    assert other["scores"][2]["photo_to_labels"]["pixel_accuracy"] == 0.7
    assert other["summary"]["photo_to_labels"]["pixel_accuracy"] == pytest.approx({"mean": 0.6, "spread": 0.1})
    assert [each["verdict"] for each in found["order"]] == ["reversed", "undecided"]
    assert set(found["variants"]) == {"one", "other"}


def test_the_studies_are_those_of_the_paper() -> None:
    assert list(STUDIES) == ["ablation", "rivals", "identity"]
    assert all(set(variant.paper) == set(TASKS) for variant in ABLATION.variants)
    best = {task: max(ABLATION.variants, key=lambda variant: variant.paper[task][0]).name for task in TASKS}
    assert best == {"labels_to_photo": "gan-forward", "photo_to_labels": "cyclegan"}
    assert len(OF_THE_PAPER) == 3
    assert ABLATION.find("gan_alone") is ABLATION.find("gan-alone")
    with pytest.raises(UserError, match="--only cyclgan: ablation has no such variant, did you mean 'cyclegan'"):
        ABLATION.find("cyclgan")
