"""docs/experiments.md: its tables are those of the committed numbers."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from benchmarks.experiments_page import NUMBERS, PAGE, updated, with_tables


def test_the_tables_of_the_page_are_those_of_the_numbers() -> None:
    page, numbers = PAGE.read_text("utf-8"), json.loads(NUMBERS.read_text())
    assert with_tables(page, numbers) == page
    with pytest.raises(SystemExit, match="the markers <!-- ablation --> and <!-- end of ablation --> are missing"):
        with_tables(page.replace("<!-- end of ablation", "<!-- "), numbers)


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
