"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from cyclegan_fast.monitoring.banner import REFRESH_SECONDS, draw_banner, draw_warnings
from cyclegan_fast.monitoring.chart import number
from cyclegan_fast.monitoring.curves import describe_networks, draw_charts, event_series, score_series
from cyclegan_fast.monitoring.evaluations import best_table, score_charts
from cyclegan_fast.monitoring.markup import el
from cyclegan_fast.monitoring.page import (
    ImageBlock,
    as_text,
    humanise,
    image_cards,
    section,
    settings_table,
    write_page,
)
from cyclegan_fast.monitoring.progress import duration
from cyclegan_fast.monitoring.run_status import RunStatus


def write_report(
    path: Path,
    *,
    title: str,
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    images: Sequence[ImageBlock],
    history: Sequence[ImageBlock] = (),
    status: RunStatus | None = None,
    scores: Mapping[str, Any] | None = None,
    score_history: Sequence[Mapping[str, Any]] | None = None,
    usage: str | None = None,
    summary: str | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Writes the report.

    Args:
        path: The .html file.
        title: Headline, such as "Scenes: labels and photos".
        settings: Groups of settings, from `config.to_dict`.
        machine: From `machine_info`.
        events: From `read_events`.
        images: What was translated.
        history: The same images step by step, a column for each step.
        status: How far the run is; the page of a run that goes on loads itself again and again.
        scores: ``{"photo_to_labels": {"pixel_accuracy": 0.94, ...}, ...}``. The entry ``"untranslated"``, of the same
            form, is shown beside each score, the entry ``"ceiling"`` (metrics) below; ``"images"`` and ``"size"`` are
            how many test images were scored, and their side in pixels; ``"protocol"`` says more, in place of both.
        score_history: Records ``{"step": int, "photo_to_labels": {...}, ...}``, drawn as curves.
        usage: Code that uses the trained networks.
        summary: One or two sentences under the headline.
        notes: Sentences below the scores.

    Returns:
        `path`.

    Raises:
        UserError: The file cannot be written.
    """
    return write_page(
        path,
        title,
        _header(title, summary, events, machine, status),
        _scores(scores, notes),
        _test_scores(events),
        section("Images", image_cards(images)) if images else None,
        section("Step by step", image_cards(history, scroll=True)) if history else None,
        _curves(events, score_history or (), str(settings.get("model", {}).get("model"))),
        _usage(usage),
        _settings(settings, machine),
        el("footer", "Made by cyclegan_fast. Curves: the values as logged, faint, and their running mean."),
        refresh=REFRESH_SECONDS if status is not None and status.state == "running" else None,
    )


def _header(
    title: str,
    summary: str | None,
    events: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any],
    status: RunStatus | None,
) -> Element:
    figures: list[tuple[str, str]] = []
    if events:
        steps, seconds = events[-1]["step"], training_seconds(events)
        figures += [(f"{steps:,}", "steps"), (duration(seconds), "of training")]
        figures += [(number(steps / seconds), "steps per second")] if seconds else []
    items = [el("li", el("b", value), f" {name}") for value, name in figures]
    items += [el("li", f"torch {machine['torch']}")] if machine.get("torch") else []
    items += [el("li", str(machine.get("gpu") or machine["cpu"]))] if machine.get("gpu") or machine.get("cpu") else []
    return el(
        "header",
        el("h1", title),
        el("p", summary, class_="summary") if summary else None,
        draw_banner(status) if status is not None else None,
        *draw_warnings(events),
        el("ul", *items, class_="figures"),
    )


def training_seconds(events: Sequence[Mapping[str, Any]]) -> float:
    """Time spent training, pauses between a stop and its resume left out: steps since the last record / their speed."""
    seconds, before = 0.0, 0
    for event in events:
        if event.get("steps_per_second"):
            seconds += (event["step"] - before) / event["steps_per_second"]
            before = event["step"]
    return seconds


def _scores(scores: Mapping[str, Any] | None, notes: Sequence[str]) -> Element | None:
    paragraphs = [el("p", note, class_="hint") for note in notes]
    if not scores:
        return el("section", *paragraphs, aria_label="Notes") if notes else None
    untranslated = scores.get("untranslated", {})
    cards = [
        el("div", el("h3", humanise(group)), _tiles(metrics, untranslated.get(group, {})), class_="card")
        for group, metrics in scores.items()
        if isinstance(metrics, Mapping) and group not in ("untranslated", "ceiling")
    ]
    return section("Scores", el("div", *cards, class_="cards"), *_score_hints(scores), *paragraphs)


def _tiles(metrics: Mapping[str, float], beside: Mapping[str, float]) -> Element:
    def tile(name: str, value: float) -> Element:
        before = f"from {score(beside[name])}" if name in beside else None
        return el(
            "div",
            el("dt", humanise(name)),
            el("dd", score(value), class_="score"),
            el("dd", before, class_="beside") if before else None,
        )

    return el("dl", *(tile(name, value) for name, value in metrics.items()), class_="tiles")


def score(value: float | None) -> str:
    """A score as the literature writes it: three decimals up to 1, fewer above."""
    if value is None:
        return "not a number"
    return f"{value:.3f}" if abs(value) <= 1 else number(value)


def _score_hints(scores: Mapping[str, Any]) -> list[Element]:
    hints = []
    if scores.get("untranslated"):
        hints.append("Below each score: that of the untranslated images.")
    if "protocol" in scores:
        hints.append(f"Scored on {scores['protocol']}; none was trained on.")
    elif "images" in scores:
        size = f" of {scores['size']} px" if "size" in scores else ""
        hints.append(f"Scored on {scores['images']:,} test images{size} that were not trained on.")
    if scores.get("ceiling"):
        ceiling = ", ".join(f"{humanise(name)} {score(value)}" for name, value in scores["ceiling"].items())
        hints.append(f"Generated photos can reach at most what real ones score: {ceiling}.")
    if any("l1" in metrics for metrics in scores.values() if isinstance(metrics, Mapping)):
        hints.append("L1 is the mean difference to the true image: less is better.")
    return [el("p", " ".join(hints), class_="hint")] if hints else []


def _test_scores(events: Sequence[Mapping[str, Any]]) -> Element | None:
    """The scores of the test images during training: the best step of each metric, and the curves."""
    table = best_table(events)
    if table is None:
        return None
    charts = score_charts(events)
    return section("Scores of the test images", table, *[el("div", *charts, class_="charts")] * bool(charts))


def _curves(events: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]], model: str) -> Element | None:
    series = score_series(history) | event_series(events)
    charts = draw_charts(series)
    networks = el("p", describe_networks(model), class_="hint")
    return section("Curves", networks, el("div", *charts, class_="charts")) if charts else None


def _usage(code: str | None) -> Element | None:
    return section("Use it", el("pre", el("code", code.strip("\n")), tabindex="0")) if code else None


def _settings(settings: Mapping[str, Any], machine: Mapping[str, Any]) -> Element:
    groups = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    single = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    tables = [settings_table(name, group) for name, group in ({"": single} | groups).items() if group]
    info = {name.replace("_", " "): as_text(value) for name, value in machine.items() if value not in (None, {}, [])}
    return section(
        "Settings and machine",
        el("details", el("summary", "Settings"), el("div", *tables, class_="columns")),
        el("details", el("summary", "Machine"), el("div", settings_table("", info), class_="columns")),
    )
