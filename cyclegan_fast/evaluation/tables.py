"""Scores of test images as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cyclegan_fast.metrics import METRICS, stem
from cyclegan_fast.monitoring.chart import number

_COLUMNS = 4  # metrics side by side, which fit 80 characters
BESIDE = {
    "untranslated": "untranslated: the test images as they are",
    "halves": "halves: one half of the target's images by the other",
}


def print_table(found: Mapping[str, Any]) -> None:
    """Prints a row for all that was scored, and a column for each metric, in several tables if there are many.

    Args:
        found: ``{"protocol": str, "scored": [{"name": str, "values": {...}, "spreads": {...}}, ...], "best":
            str}``, and as ``untranslated`` and ``halves`` what the scores lie between.
    """
    from rich.console import Console
    from rich.table import Table

    beside = [name for name in BESIDE if found.get(name, {}).get("values")]
    rows = [(row["name"] + " *" * (row["name"] == found.get("best")), row) for row in found["scored"]]
    rows += [(name, found[name]) for name in beside]
    known = {stem(score) for _, row in rows for score in row["values"]}
    metrics = [name for name in METRICS if name in known]
    notes = ["↓ lower is better, ↑ higher", *(BESIDE[name] for name in beside)]
    console = Console(highlight=False)
    console.print(found["protocol"], markup=False)
    for start in range(0, len(metrics), _COLUMNS):
        shown = metrics[start : start + _COLUMNS]
        table = Table()
        table.add_column("")
        for name in shown:
            table.add_column(f"{name} {'↑' if METRICS[name].higher_is_better else '↓'}", justify="right")
        for name, row in rows:
            table.add_row(name, *(_cell(row, metric) for metric in shown))
        console.print(table)
    console.print("; ".join(notes + ["* the best"] * bool(found.get("best"))), markup=False)


def _cell(row: Mapping[str, Any], metric: str) -> str:
    """A score with its spread, and below it those of both directions."""
    lines = []
    for name, label in ((metric, ""), (f"{metric}_AtoB", "A→B "), (f"{metric}_BtoA", "B→A ")):
        if name in row["values"]:
            spread = row["spreads"].get(name)
            lines.append(label + number(row["values"][name]) + (f" ± {number(spread)}" if spread is not None else ""))
    return "\n".join(lines)
