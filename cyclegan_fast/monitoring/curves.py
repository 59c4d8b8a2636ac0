"""The curves of a run: its records as charts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from cyclegan_fast.models import MODELS
from cyclegan_fast.monitoring.chart import Points, line_chart
from cyclegan_fast.monitoring.events import is_log_record
from cyclegan_fast.monitoring.page import humanise

LOSS_TITLES = {
    "G": "Generators (adversarial)",
    "D": "Discriminators",
    "cycle": "Cycle consistency",
    "idt": "Identity",
}
CURVES = {  # of the events, beside their losses
    "lr": "Learning rate",
    "steps_per_second": "Steps per second",
    "data_wait_percent": "Time spent waiting for data",
}
UNITS = {CURVES["data_wait_percent"]: "%"}
EXACT = {CURVES["lr"]}  # charts of values without noise
_SCORED = {"A": "images of A", "B": "images of B", "AB": "images of A and B, both at once"}


def draw_charts(charts: Mapping[str, Mapping[str, Points]]) -> list[Element]:
    """Draws curves by chart and name."""
    return [
        line_chart(title, lines, smooth=title not in EXACT, unit=UNITS.get(title, ""))
        for title, lines in charts.items()
    ]


def describe_networks(model: str) -> str:
    """Returns what the networks do that losses are named after.

    Args:
        model: Its name, as ``--model`` takes it; what earlier versions trained, without one, is a CycleGAN.
    """
    networks = MODELS.get(model, MODELS["cyclegan"])
    translated = [f"images of {direction[0]} into {direction[-1]}" for direction in networks.directions]
    scored = [_SCORED[images] for images in networks.discriminators.values()]
    return f"{_each(networks.generators, 'turns', translated)}; {_each(networks.discriminators, 'scores', scored)}."


def _each(names: Iterable[str], verb: str, objects: Iterable[str]) -> str:
    """What each does, in a sentence with the verb once."""
    first, *rest = zip(names, objects, strict=True)
    return " and ".join([f"{first[0]} {verb} {first[1]}", *map(" ".join, rest)])


def loss_title(name: str) -> str:
    """Returns the title of a loss of either direction: "Identity" for idt_A."""
    stem = name.removesuffix("_A").removesuffix("_B")
    return LOSS_TITLES.get(stem, humanise(stem))


def event_series(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """Curves by chart and name: one chart per kind of loss with both directions, then rate and speed."""
    charts: dict[str, dict[str, Points]] = {}
    events = [event for event in events if is_log_record(event)]
    for name in dict.fromkeys(name for event in events for name in event.get("losses", {})):
        points = [(event["step"], event.get("losses", {}).get(name)) for event in events]
        charts.setdefault(loss_title(name), {})[name] = points
    for key, title in CURVES.items():
        charts[title] = {humanise(key.removesuffix("_percent")): [(event["step"], event.get(key)) for event in events]}
    return with_numbers(charts)


def score_series(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """Curves by chart and name: one chart per direction with its metrics."""
    charts: dict[str, dict[str, Points]] = {}
    for record in history:
        for group, metrics in record.items():
            if isinstance(metrics, Mapping) and group not in ("untranslated", "ceiling"):
                chart = charts.setdefault(f"Scores: {humanise(group)}", {})
                for name, value in metrics.items():
                    chart[humanise(name)] = [*chart.get(humanise(name), []), (record["step"], value)]
    return with_numbers(charts)


def with_numbers(charts: Mapping[str, Mapping[str, Points]]) -> dict[str, dict[str, Points]]:
    """Leaves out curves without a single number, and charts without a curve."""
    drawable = {
        title: {name: points for name, points in chart.items() if any(y is not None for _, y in points)}
        for title, chart in charts.items()
    }
    return {title: chart for title, chart in drawable.items() if chart}
