"""docs/experiments.md: its tables are those of the committed numbers."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from benchmarks.experiments_page import NUMBERS, PAGE, repeated, updated, with_tables


def test_the_tables_of_the_page_are_those_of_the_numbers() -> None:
    page, numbers = PAGE.read_text("utf-8"), json.loads(NUMBERS.read_text())
    assert with_tables(page, numbers) == page
    with pytest.raises(SystemExit, match="the markers <!-- ablation --> and <!-- end of ablation --> are missing"):
        with_tables(page.replace("<!-- end of ablation", "<!-- "), numbers)


def test_further_seeds_are_a_repetition() -> None:
    (found,) = json.loads(NUMBERS.read_text())["ablation"]["results"]

    def with_seeds(seeds: dict[int, int]) -> dict[str, Any]:
        """The ablation with the scores of some seeds for those of others."""
        variants = {
            name: variant | {"scores": {str(new): variant["scores"][str(old)] for new, old in seeds.items()}}
            for name, variant in found["variants"].items()
        }
        return found | {"variants": variants}

    assert repeated(with_seeds({0: 0, 1: 1, 2: 2, 3: 3, 4: 4})) == []  # too few
    same = re.findall(r"\d+", repeated(with_seeds({0: 0, 1: 1, 2: 2, 3: 0, 4: 1, 5: 2}))[1])
    orders, claimed = same[3], same[7]  # behind three seeds each
    assert claimed == orders != "0" and same[-2:] == ["0", "0"]
    turned = with_seeds({i: i for i in range(6)})
    one, other = (turned["variants"][name]["scores"] for name in ("gan-alone", "cyclegan"))
    for seed in "345":
        one[seed], other[seed] = other[seed], one[seed]
    assert not repeated(turned)[1].endswith(", and 0 are turned round.")


def test_new_numbers_are_stamped_and_others_keep_their_origin(tmp_path: Path) -> None:
    numbers = json.loads(NUMBERS.read_text())
    for measured in numbers.values():
        assert measured["date"] and measured["commit"] and measured["machine"]["cpu"] and measured["extension"]
    (ablation,) = numbers["ablation"]["results"]
    (tmp_path / "ablation.json").write_text(json.dumps(ablation))
    (tmp_path / "identity.json").write_text(json.dumps({"study": "identity", "steps": 7}))
    found = updated(numbers, tmp_path)
    assert found["ablation"] == numbers["ablation"] and found["rivals"] == numbers["rivals"]
    assert found["identity"]["results"] == [{"study": "identity", "steps": 7}]
    assert found["identity"]["date"] == date.today().isoformat()
