"""Several runs on one page: their states, the settings in which they differ, their curves and their last grids."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from cyclegan_fast.metrics import METRICS, score_records
from cyclegan_fast.monitoring.chart import Points, colour, line_chart, number
from cyclegan_fast.monitoring.curves import CURVES, EXACT, UNITS, describe_networks, loss_title, with_numbers
from cyclegan_fast.monitoring.evaluations import ARROWS, score_shown
from cyclegan_fast.monitoring.events import is_log_record, read_events
from cyclegan_fast.monitoring.grids import reduced
from cyclegan_fast.monitoring.markup import el
from cyclegan_fast.monitoring.page import (
    ImageBlock,
    as_text,
    breakable,
    image_cards,
    section,
    table_card,
    write_page,
)
from cyclegan_fast.monitoring.progress import duration
from cyclegan_fast.monitoring.report import training_seconds
from cyclegan_fast.monitoring.run_report import REPORT_NAME, current_status, read_settings
from cyclegan_fast.monitoring.run_status import RunStatus
from cyclegan_fast.monitoring.samples import DIRECTIONS, SampleRow, read_samples, sample_steps

IMAGE_SIDE = 192  # pixels that an image has at most
NARROW = 3  # columns of a card that has another one beside it
MAX_DIFFERENCE = 6.0  # of 255, in the mean, between two grids' copies of an image
OWN_SETTINGS = {"out", "resume"}  # which tell runs apart anyway


@dataclass(frozen=True)
class ComparedRun:
    """What is known of a run from its files."""

    folder: Path
    label: str
    settings: dict[str, str]
    """Values as text, by name, which no two groups share."""
    events: list[dict[str, Any]]
    status: RunStatus | None
    step: int
    """Of the newest grid."""
    rows: list[SampleRow]
    """Of that grid."""


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """Writes the page.

    Args:
        folders: The runs', in the order in which they are shown.
        path: The .html file.

    Returns:
        `path`.

    Raises:
        UserError: A folder is no run's, a file in it is damaged, or the page cannot be written.
    """
    runs = [_read(folder, label) for folder, label in zip(folders, labels_of(folders), strict=True)]
    return write_page(
        path,
        f"{len(runs)} runs",
        el("header", el("h1", f"{len(runs)} runs")),
        _overview(runs, path.parent),
        _differences(runs),
        _last_images(runs),
        _curves(runs),
        el("footer", "Made by cyclegan_fast. Curves: running means; scores as they are."),
    )


def labels_of(folders: Sequence[Path]) -> list[str]:
    """Returns the names of the folders, with as many folders above them as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            break
    return labels


def _read(folder: Path, label: str) -> ComparedRun:
    settings, events = read_settings(folder), read_events(folder)
    step = max(sample_steps(folder), default=0)
    flat = {
        name: as_text(value)
        for values in settings.values()
        if isinstance(values, Mapping)
        for name, value in values.items()
    }
    return ComparedRun(folder, label, flat, events, current_status(folder, events), step, read_samples(folder, step))


def _overview(runs: Sequence[ComparedRun], page: Path) -> Element:
    head = ("run", "state", "steps", "trained for", "steps per second", "device")
    lines = []
    for i, run in enumerate(runs):
        steps, seconds = (run.events[-1]["step"] if run.events else 0), training_seconds(run.events)
        status = run.status
        values = (
            status.state if status else "",
            f"{steps:,}" + (f" of {status.total_steps:,}" if status else ""),
            duration(seconds) if seconds else "",
            number(steps / seconds) if seconds else "",
            as_text(status.machine.get("gpu") or status.machine.get("cpu") or "") if status else "",
        )
        lines.append(el("tr", _run_name(run, i, page), *(el("td", value) for value in values)))
    return section("Runs", table_card(head, lines))


def _run_name(run: ComparedRun, i: int, page: Path) -> Element:
    name: Element | str = run.label
    if (report := run.folder / REPORT_NAME).is_file():
        name = el("a", run.label, href=Path(os.path.relpath(report, page)).as_posix())
    return el("th", el("i", class_=colour(i), aria_hidden="true"), name, scope="row")


def _differences(runs: Sequence[ComparedRun]) -> Element:
    names = dict.fromkeys(name for run in runs for name in run.settings if name not in OWN_SETTINGS)
    differing = [name for name in names if len({run.settings.get(name) for run in runs}) > 1]
    if not differing:
        return section("Settings that differ", el("p", "None: the runs have the same settings.", class_="hint"))
    lines = [
        el("tr", el("th", name, scope="row"), *(el("td", *breakable(run.settings.get(name, ""))) for run in runs))
        for name in differing
    ]
    heads = ["setting", *(run.label for run in runs)]
    return section("Settings that differ", table_card(heads, lines, kind="differences"))


def _last_images(runs: Sequence[ComparedRun]) -> Element | None:
    """The translations of runs that show the same images, beside their input; those of the other runs one by one."""
    groups = _groups([run for run in runs if run.rows and run.step])
    blocks = [_translations(group, domain) for group in groups for domain in _domains(group[0])]
    wide = [block for block in blocks if len(block["columns"]) > NARROW]
    narrow = [block for block in blocks if len(block["columns"]) <= NARROW]
    left_out = ", ".join(run.label for run in runs if not run.step)
    if not groups:
        return None
    return section(
        "Last images",
        el("p", f"No grid after step 0: {left_out}.", class_="hint") if left_out else None,
        image_cards(wide, scroll=True) if wide else None,
        image_cards(narrow) if narrow else None,
    )


def _groups(runs: Sequence[ComparedRun]) -> list[list[ComparedRun]]:
    """The runs by what their grids show, in order."""
    groups: list[list[ComparedRun]] = []
    for run in runs:
        group = next((group for group in groups if _show_the_same(group[0].rows, run.rows)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def _show_the_same(rows: Sequence[SampleRow], others: Sequence[SampleRow]) -> bool:
    """Whether two grids show the same images: by their names, and by small copies, which JPEG changes little."""
    if [row[:2] for row in rows] != [row[:2] for row in others]:
        return False
    inputs = [
        [np.asarray(row.images[0].resize((8, 8), Image.Resampling.BOX), np.float32) for row in grid]
        for grid in (rows, others)
    ]
    return all(np.abs(a - b).mean() < MAX_DIFFERENCE for a, b in zip(*inputs, strict=True))


def _domains(run: ComparedRun) -> list[str]:
    return list(dict.fromkeys(row.domain for row in run.rows))


def _translations(runs: Sequence[ComparedRun], domain: str) -> ImageBlock:
    """Each image of a domain beside its translations by the runs."""
    rows = [i for i, row in enumerate(runs[0].rows) if row.domain == domain]
    return ImageBlock(
        title=DIRECTIONS[domain],
        columns=["input", *(f"{run.label}, step {run.step:,}" for run in runs)],
        rows=[[reduced(image, IMAGE_SIDE) for image in _input_and_translations(runs, i)] for i in rows],
        names=[runs[0].rows[i].name for i in rows],
    )


def _input_and_translations(runs: Sequence[ComparedRun], row: int) -> list[Image.Image]:
    return [runs[0].rows[row].images[0], *(run.rows[row].images[1] for run in runs)]


def _curves(runs: Sequence[ComparedRun]) -> Element | None:
    """A chart for each loss and each other curve, with a line for each run."""
    losses = dict.fromkeys(name for run in runs for event in run.events for name in event.get("losses", {}))
    charts: dict[str, dict[str, Points]] = {}
    for name in losses:
        charts[f"{loss_title(name)}: {name}"] = _lines(runs, name)
    charts |= {title: _lines(runs, key) for key, title in CURVES.items()}
    scores = _score_charts(runs)
    exact, labels = EXACT | scores.keys(), [run.label for run in runs]
    drawn = [
        line_chart(title, lines, smooth=title not in exact, raw=False, unit=UNITS.get(title, ""), names=labels)
        for title, lines in with_numbers(charts | scores).items()
    ]
    networks = dict.fromkeys(describe_networks(run.settings.get("model", "")) for run in runs)
    hints = [el("p", hint, class_="hint") for hint in (*networks, *_protocols(runs))]
    return section("Curves", *hints, el("div", *drawn, class_="charts")) if drawn else None


def _protocols(runs: Sequence[ComparedRun]) -> list[str]:
    """Names the protocols by which the runs were scored, where they differ."""
    newest = {run.label: records[-1].get("protocol") for run in runs if (records := score_records(run.events))}
    if len(set(newest.values())) < 2:
        return []
    named = "; ".join(f"{label}: {protocol or 'unknown'}" for label, protocol in newest.items())
    return [f"Scores do not compare between runs that were scored by different protocols. {named}."]


def _lines(runs: Sequence[ComparedRun], name: str) -> dict[str, Points]:
    """The values of a loss, or of what else was logged, by run."""
    return {
        run.label: [
            (event["step"], event.get("losses", {}).get(name, event.get(name)))
            for event in run.events
            if is_log_record(event)
        ]
        for run in runs
    }


def _score_charts(runs: Sequence[ComparedRun]) -> dict[str, dict[str, Points]]:
    """A chart for each metric, of the mean of both directions; or of each, where a run has one alone."""
    newest = [records[-1] for run in runs if (records := score_records(run.events))]
    charts: dict[str, dict[str, Points]] = {}
    for name, metric in METRICS.items():
        if {score_shown(record, name) for record in newest} <= {name, ""}:
            charts[metric.title] = _score_lines(runs, name)
        else:
            charts |= {f"{metric.title}, {to}": _score_lines(runs, f"{name}_{way}") for way, to in ARROWS.items()}
    return charts


def _score_lines(runs: Sequence[ComparedRun], name: str) -> dict[str, Points]:
    """The values of a score by run, of each those by its newest protocol."""
    return {
        run.label: [(record["step"], record["scores"].get(name)) for record in score_records(run.events)]
        for run in runs
    }
