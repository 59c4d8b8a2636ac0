"""docs/experiments.md: its tables are those of the committed numbers."""

from __future__ import annotations

import json

import pytest

from benchmarks.experiments_page import NUMBERS, PAGE, with_tables


def test_the_tables_of_the_page_are_those_of_the_numbers() -> None:
    page, numbers = PAGE.read_text("utf-8"), json.loads(NUMBERS.read_text())
    assert with_tables(page, numbers) == page
    with pytest.raises(SystemExit, match="the markers <!-- ablation --> and <!-- end of ablation --> are missing"):
        with_tables(page.replace("<!-- end of ablation", "<!-- "), numbers)
