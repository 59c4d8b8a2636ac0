"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict
from xml.etree.ElementTree import Element

from PIL import Image
from torch import Tensor

from cyclegan_fast.files import write_atomically
from cyclegan_fast.monitoring.chart import Points, line_chart, number
from cyclegan_fast.monitoring.grids import encode, to_image
from cyclegan_fast.monitoring.markup import el, to_html
from cyclegan_fast.monitoring.progress import duration
from cyclegan_fast.monitoring.style import CSS

SMALL_SIDE = 128  # pixels; up to this size images are stored exactly and shown with sharp pixels
LOSS_TITLES = {
    "G": "Generators against the discriminators",
    "D": "Discriminators",
    "cycle": "Cycle consistency",
    "idt": "Identity",
}
CAPITALS = {"l1": "L1", "iou": "IoU", "fid": "FID", "kid": "KID", "ssim": "SSIM", "psnr": "PSNR", "lr": "learning rate"}
CURVES = {  # of the events, beside their losses
    "lr": "Learning rate",
    "steps_per_second": "Steps per second",
    "data_wait_percent": "Time spent waiting for data",
}
UNITS = {CURVES["data_wait_percent"]: "%"}
EXACT = {CURVES["lr"]}  # charts of values without noise
NAMES = "G_A turns images of A into B and G_B images of B into A; D_A scores images of B and D_B images of A."


class ImageBlock(TypedDict):
    """Images side by side: one caption per column, rows of float [C, H, W] in [-1, 1] or of PIL images."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Tensor | Image.Image]]


def write_report(
    path: Path,
    *,
    title: str,
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    images: Sequence[ImageBlock],
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
        scores: ``{"photo_to_labels": {"pixel_accuracy": 0.94, ...}, ...}``. The entry ``"untranslated"``, of the same
            form, is shown beside each score, the entry ``"ceiling"`` (metrics) below; ``"images"`` and ``"size"`` are
            how many test images were scored, and their side in pixels.
        score_history: Records ``{"step": int, "photo_to_labels": {...}, ...}``, drawn as curves.
        usage: Code that uses the trained networks.
        summary: One or two sentences under the headline.
        notes: Sentences below the scores.

    Returns:
        `path`.

    Raises:
        UserError: The file cannot be written.
    """
    body = [
        _header(title, summary, events, machine),
        _scores(scores, notes),
        _images(images),
        _curves(events, score_history or ()),
        _usage(usage),
        _settings(settings, machine),
        el("footer", "Made by cyclegan_fast. Curves: the values as logged, faint, and their running mean."),
    ]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", CSS),
    )
    document = el("html", head, el("body", el("main", *body)), lang="en")
    write_atomically(path, to_html(document).encode("utf-8", "replace"))
    return path


def humanise(name: str) -> str:
    """Returns a readable form of a key: ``photo_to_labels`` is "photo → labels", ``class_iou`` is "class IoU"."""
    parts = name.replace("_to_", " → ").replace("_", " ").split(" ")
    return " ".join(CAPITALS.get(part, part) for part in parts)


def _section(title: str, *children: Element | None) -> Element:
    name = title.lower().replace(" ", "-")
    return el("section", el("h2", title, id=name), *children, aria_labelledby=name)


def _header(
    title: str, summary: str | None, events: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]
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
    return _section("Scores", el("div", *cards, class_="cards"), *_score_hints(scores), *paragraphs)


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
    if "images" in scores:
        size = f" of {scores['size']} px" if "size" in scores else ""
        hints.append(f"Scored on {scores['images']:,} test images{size} that were not trained on.")
    if scores.get("ceiling"):
        ceiling = ", ".join(f"{humanise(name)} {score(value)}" for name, value in scores["ceiling"].items())
        hints.append(f"Generated photos can reach at most what real ones score: {ceiling}.")
    if any("l1" in metrics for metrics in scores.values() if isinstance(metrics, Mapping)):
        hints.append("L1 is the mean difference to the true image: less is better.")
    return [el("p", " ".join(hints), class_="hint")] if hints else []


def _images(blocks: Sequence[ImageBlock]) -> Element | None:
    if not blocks:
        return None
    return _section("Images", el("div", *(_image_block(block) for block in blocks), class_="cards"))


def _image_block(block: ImageBlock) -> Element:
    columns = block["columns"]
    cells: list[Element] = [el("span", caption) for caption in columns]
    for i, row in enumerate(block["rows"], 1):
        cells += [_image(pixels, f"{block['title']}: {columns[j]}, row {i}") for j, pixels in enumerate(row)]
        cells += [el("span") for _ in range(len(columns) - len(row))]
    style = f"grid-template-columns: repeat({len(columns)}, minmax(0, 1fr))"
    return el("div", el("h3", block["title"]), el("div", *cells, class_="strip", style=style), class_="card")


def _image(pixels: Tensor | Image.Image, alt: str) -> Element:
    image = pixels.convert("RGB") if isinstance(pixels, Image.Image) else to_image(pixels)
    small = max(image.size) <= SMALL_SIDE
    kind = "PNG" if small else "JPEG"
    source = f"data:image/{kind.lower()};base64,{base64.b64encode(encode(image, kind)).decode()}"
    return el("img", src=source, alt=alt, width=image.width, height=image.height, class_="small" if small else None)


def _curves(events: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]]) -> Element | None:
    series = score_series(history) | event_series(events)
    charts = [
        line_chart(title, lines, smooth=title not in EXACT, unit=UNITS.get(title, ""))
        for title, lines in series.items()
    ]
    return _section("Curves", el("p", NAMES, class_="hint"), el("div", *charts, class_="charts")) if charts else None


def event_series(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """Curves by chart and name: one chart per kind of loss with both directions, then rate and speed."""
    charts: dict[str, dict[str, Points]] = {}
    for name in dict.fromkeys(name for event in events for name in event.get("losses", {})):
        stem = name.removesuffix("_A").removesuffix("_B")
        points = [(event["step"], event.get("losses", {}).get(name)) for event in events]
        charts.setdefault(LOSS_TITLES.get(stem, humanise(stem)), {})[name] = points
    for key, title in CURVES.items():
        charts[title] = {humanise(key.removesuffix("_percent")): [(event["step"], event.get(key)) for event in events]}
    return _with_numbers(charts)


def score_series(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """Curves by chart and name: one chart per direction with its metrics."""
    charts: dict[str, dict[str, Points]] = {}
    for record in history:
        for group, metrics in record.items():
            if isinstance(metrics, Mapping) and group not in ("untranslated", "ceiling"):
                chart = charts.setdefault(f"Scores: {humanise(group)}", {})
                for name, value in metrics.items():
                    chart[humanise(name)] = [*chart.get(humanise(name), []), (record["step"], value)]
    return _with_numbers(charts)


def _with_numbers(charts: dict[str, dict[str, Points]]) -> dict[str, dict[str, Points]]:
    """Leaves out curves without a single number, and charts without a curve."""
    drawable = {
        title: {name: points for name, points in chart.items() if any(y is not None for _, y in points)}
        for title, chart in charts.items()
    }
    return {title: chart for title, chart in drawable.items() if chart}


def _usage(code: str | None) -> Element | None:
    return _section("Use it", el("pre", el("code", code.strip("\n")), tabindex="0")) if code else None


def _settings(settings: Mapping[str, Any], machine: Mapping[str, Any]) -> Element:
    groups = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    single = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    tables = [_table(name, group) for name, group in ({"": single} | groups).items() if group]
    info = {name.replace("_", " "): _text(value) for name, value in machine.items() if value not in (None, {}, [])}
    return _section(
        "Settings and machine",
        el("details", el("summary", "Settings"), el("div", *tables, class_="columns")),
        el("details", el("summary", "Machine"), el("div", _table("", info), class_="columns")),
    )


def _text(value: Any) -> str:
    """A nested value as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items() if inner not in (None, [], {}))
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _table(title: str, rows: Mapping[str, Any]) -> Element:
    body = [el("tr", el("th", name, scope="row"), el("td", str(value))) for name, value in rows.items()]
    return el("section", el("h3", title) if title else None, el("table", el("tbody", *body)))
