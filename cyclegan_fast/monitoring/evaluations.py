"""The scores of a run's test images, out of its records: lines for the terminal, curves and the best step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from cyclegan_fast.metrics import DEFAULT_SCORE, DIRECTIONS, METRICS, best_record, score_records
from cyclegan_fast.monitoring.chart import Points, line_chart, number
from cyclegan_fast.monitoring.curves import with_numbers
from cyclegan_fast.monitoring.markup import el
from cyclegan_fast.monitoring.page import table_card

Record = Mapping[str, Any]  # step, scores, and mostly spreads, protocol, untranslated
ARROWS = {"AtoB": "A → B", "BtoA": "B → A"}


def score_line(record: Record, best: Record | None, score: str = DEFAULT_SCORE) -> str:
    """Returns the scores of a record as a line, each as the mean of both directions, with (A to B | B to A).

    Of a model of one direction they are those of that one.

    Args:
        record: The scores, and by which protocol.
        best: The record that is the best so far by `score`.
        score: What the best is chosen by.
    """
    parts = []
    for name in METRICS:
        if name in record["scores"]:
            parts.append(f"{name} {_value(record, name)} ({_both(record, name)})")
        elif shown := score_shown(record, name):
            parts.append(f"{shown} {_value(record, shown)}")
    line = f"scores after step {record['step']:,}: {', '.join(parts)}"
    if best is record:
        line += f"; the best {score} so far"
    elif best is not None:
        line += f"; the best {score} was {value_text(best['scores'][score])} after step {best['step']:,}"
    return line + f"; {record['protocol']}" * bool(record.get("protocol"))


def score_shown(record: Record, name: str) -> str:
    """Returns the name under which a record has a metric: its own, that of its one direction, or an empty one."""
    names = (name, *(f"{name}_{direction}" for direction in DIRECTIONS))
    return next((known for known in names if known in record["scores"]), "")


def _both(record: Record, name: str) -> str:
    return " | ".join(value_text(record["scores"].get(f"{name}_{direction}")) for direction in DIRECTIONS)


def value_text(value: float | None) -> str:
    """Returns a score as text."""
    return "not a number" if value is None else number(value)


def score_charts(events: Sequence[Record]) -> list[Element]:
    """Draws a chart for each metric, with both directions and a mark at the best step of their mean.

    None of a single record, which the table shows as well.
    """
    records, charts = score_records(events), []
    if len(records) < 2:
        return []
    for name, metric in METRICS.items():
        lines = {ARROWS[direction]: _points(records, f"{name}_{direction}") for direction in DIRECTIONS}
        best = best_record(records, score_shown(records[-1], name) or name)
        mark = None if best is None else (best["step"], f"best at step {best['step']:,}")
        drawn = with_numbers({metric.title: lines})
        charts += [line_chart(title, points, smooth=False, mark=mark) for title, points in drawn.items()]
    return charts


def _points(records: Sequence[Record], score: str) -> Points:
    return [(record["step"], record["scores"].get(score)) for record in records]


def best_table(events: Sequence[Record]) -> Element | None:
    """A table of the metrics: at their best, and last; None where nothing was scored."""
    records = score_records(events)
    if not records:
        return None
    rows = []
    for metric_name, metric in METRICS.items():
        name = score_shown(records[-1], metric_name) or metric_name
        best = best_record(records, name)
        if best is None:
            continue
        untranslated = (records[-1].get("untranslated") or {}).get(name)
        rows.append(
            el(
                "tr",
                el("th", metric.title, scope="row"),
                el("td", _value(best, name)),
                el("td", f"{best['step']:,}"),
                el("td", _value(records[-1], name)),
                el("td", "" if untranslated is None else number(untranslated)),
                el("td", "higher" if metric.higher_is_better else "lower"),
            )
        )
    heads = ("", "Best", "at step", f"Last (step {records[-1]['step']:,})", "Untranslated", "Better is")
    protocol = records[-1].get("protocol", "")
    there = [d for d in DIRECTIONS if any(name.endswith(f"_{d}") for name in records[-1]["scores"])]
    whose = ARROWS[there[0]] if len(there) == 1 else "Mean of both directions"
    what = el("p", f"{whose}{f'; {protocol}' if protocol else ''}.", class_="hint")
    return table_card(heads, rows, what)


def _value(record: Record, name: str) -> str:
    """A score of a record, with its spread where that is known."""
    spread = record.get("spreads", {}).get(name)
    return value_text(record["scores"].get(name)) + (f" ± {number(spread)}" if spread is not None else "")
