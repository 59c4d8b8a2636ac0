"""Scores of the test images in the report and on the terminal: which are best, and what is comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyclegan_fast.metrics import score_records
from cyclegan_fast.monitoring.evaluations import best_table, score_charts, score_line
from cyclegan_fast.monitoring.events import EventLog, read_events
from cyclegan_fast.monitoring.markup import to_html
from cyclegan_fast.monitoring.report import write_report


def record(step: int, swd: float | None, *, protocol: str = "4 + 4 images", **scores: float) -> dict[str, Any]:
    both = {"swd": swd, "swd_AtoB": swd and swd - 1, "swd_BtoA": swd and swd + 1}
    return {"step": step, "scores": both | scores, "spreads": {"swd": 0.5}, "protocol": protocol}


def test_the_line_names_both_directions_the_spread_and_the_best_step() -> None:
    first, second = record(100, 30.0), record(1200, 40.0, cycle_ssim=0.912)
    assert (
        score_line(first, first) == "scores after step 100: swd 30 ± 0.5 (29 | 31); the best swd so far; 4 + 4 images"
    )
    expected = "scores after step 1,200: swd 40 ± 0.5 (39 | 41), cycle_ssim 0.912 (not a number | not a number)"
    assert score_line(second, first) == f"{expected}; the best swd was 30 after step 100; 4 + 4 images"
    assert score_line(first, None) == "scores after step 100: swd 30 ± 0.5 (29 | 31); 4 + 4 images"
    assert "; the best cycle_ssim was 0.912 after step 1,200;" in score_line(first, second, "cycle_ssim")


def test_scores_of_another_protocol_do_not_compare() -> None:
    events = [record(1, 10.0, protocol="2 + 2 images"), {"step": 1, "losses": {}}, record(2, 30.0), record(3, 20.0)]
    assert [event["step"] for event in score_records(events)] == [2, 3]
    assert score_records([{"step": 1}]) == [] and best_table([{"step": 1}]) is None


@pytest.mark.parametrize("values", [[30.0, 20.0, 25.0], [30.0, 20.0, None]])
def test_the_report_shows_the_best_step_of_each_metric(tmp_path: Path, values: list[float | None]) -> None:
    with EventLog(tmp_path) as log:
        for i, (value, ssim) in enumerate(zip(values, (0.5, 0.6, 0.7), strict=True)):
            step = 1000 * (i + 1)
            log.write(step, losses={"G_A": 0.5})
            log.write(**record(step, value, cycle_ssim=ssim, cycle_ssim_AtoB=ssim), untranslated={"swd": 55.5})
    events = read_events(tmp_path)
    assert events[-1]["scores"]["swd"] == values[-1]
    table = to_html(best_table(events))  # type: ignore[arg-type]
    rows = [row for row in table.split("<tr>") if 'scope="row"' in row]
    assert len(rows) == 2
    assert all(text in rows[0] for text in ("20 ± 0.5", "2,000", "55.5", "lower"))
    assert all(text in rows[1] for text in ("0.7", "3,000", "higher"))
    assert score_charts(events[:2]) == []  # one point is no curve
    charts = [to_html(chart) for chart in score_charts(events)]
    assert len(charts) == 2 and "best at step 2,000" in charts[0] and charts[0].count('class="mark"') == 1
    assert "A → B" in charts[1] and "B → A" not in charts[1]
    page = write_report(tmp_path / "r.html", title="t", settings={}, machine={}, events=events, images=[]).read_text()
    assert "Scores of the test images" in page and "4 + 4 images" in page
    assert page.count("G_A") >= 1  # the losses' curves have no gaps where scores stand between them
