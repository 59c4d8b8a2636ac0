"""The tables of docs/results/hallucination.md, from what benchmarks/hallucination.py has found."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Measured, write_between_markers, write_json

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, STORED = (DOCS / "results" / f"hallucination.{kind}" for kind in ("md", "json"))
MIN_INVENTED_IN = 10  # images that the generator must have invented in, for an area that says something about it
GOOD_AREA = 0.8  # counted as found
MAP, PLACES = "retranslated, 5x5", "retranslated, 5x5, of another image"
# Of the map, in the mean of the rows: measured were 0.84 and, of larger runs, 0.87. The map of another image, which
# knows places alone, had 0.755 and 0.80: a map that is hardly better tells nothing about its own image.
MIN_MAP_AREA, MIN_GAIN = 0.75, 0.02
NO_FLAGS = {"retranslated"}  # the scores that no flag follows from


def store(measured: Measured) -> None:
    """Stores results beside those of other settings, and writes the tables of all into the page.

    Raises:
        SystemExit: Stored cases of the same settings would be lost.
    """
    every = json.loads(STORED.read_text()) if STORED.exists() else []
    same = [one for one in every if _settings(one) == _settings(measured)]
    if lost := {case for one in same for case in one["arguments"]["cases"]} - {*measured["arguments"]["cases"]}:
        raise SystemExit(f"{STORED} holds further cases of these settings: give them as well: {' '.join(sorted(lost))}")
    every = [*(one for one in every if one not in same), measured]
    write_json(STORED, every)
    write_between_markers(PAGE, page(every))


def _settings(measured: Measured) -> dict[str, Any]:
    return {name: value for name, value in measured["arguments"].items() if name != "cases"}


def page(every: Sequence[Measured]) -> list[str]:
    """Returns the tables of all settings."""
    return [line for measured in every for line in (*table(measured), "")]


def table(measured: Measured) -> list[str]:
    """Returns the tables of one setting: of pixels, of images, of flags, and of pairs of sound generators."""
    sizes = measured["arguments"]
    title = (
        f"{sizes['size']}x{sizes['size']} pixels, {sizes['train']} training images of each domain, {sizes['steps']} "
        f"steps, {sizes['blocks']} blocks of {4 * sizes['width']} channels, learning rate {sizes['lr']:g}, "
        f"{sizes['test']} test photos of each row; measured {measured['date']}, commit {measured['commit']}."
    )
    tables = (_pixels(measured), _images(measured), _flags(measured), _controls(measured))
    return [*textwrap.wrap(title, 120), *(line for lines in tables for line in ("", *lines))]


def verdict(measured: Measured) -> tuple[str, bool]:
    """Returns a line about all rows, and whether the map finds inventions.

    Its mean area is then at least `MIN_MAP_AREA`, and `MIN_GAIN` above that of the map of another image. Rows without
    an area are left out; where none is left, nothing was found.
    """
    rows = [found for _, _, found in _rows(measured)]
    maps, places = (_known(row["hallucinating"]["pixel_auc"][name] for row in rows) for name in (MAP, PLACES))
    if not maps:
        return "maps: no pixel was invented in any row, so nothing shows that they find any", False
    mean, alone = statistics.fmean(maps), statistics.fmean(places)
    good = mean >= MIN_MAP_AREA and mean >= alone + MIN_GAIN
    line = (
        f"maps: pixel area of retranslated {_range(maps, len(rows))}, mean {mean:.3f} "
        f"(of places alone {alone:.3f}; fails below {MIN_MAP_AREA}, and below {alone + MIN_GAIN:.3f}); "
    )
    enough = [row["image_auc"] for row in rows if row["hallucinating"]["images_with_inventions"] >= MIN_INVENTED_IN]
    flagging = {name: _known(areas[name] for areas in enough) for name in rows[0]["image_auc"] if name not in NO_FLAGS}
    means = {name: statistics.fmean(areas) for name, areas in flagging.items() if areas}
    best = max(means, key=lambda name: means[name], default=None)
    if best is None:
        return f"{line}images: too few were invented in", good
    images = f"images: {best.replace('_', ' ')}, the best score that flags, {_range(flagging[best], len(rows))}"
    return line + images, good


def _known(areas: Iterable[float | None]) -> list[float]:
    return [area for area in areas if area is not None]


def _range(areas: Sequence[float], rows: int) -> str:
    good = sum(area >= GOOD_AREA for area in areas)
    left_out = f", {rows - len(areas)} rows left out" if len(areas) < rows else ""
    return f"{min(areas):.2f} to {max(areas):.2f}, at least {GOOD_AREA} in {good} of {len(areas)} rows{left_out}"


def _pixels(measured: Measured) -> list[str]:
    """What the one that invents has invented, and how well the maps find it."""
    rows = []
    for case, photos, found in _rows(measured):
        sound, inventing = found["sound"], found["hallucinating"]
        areas = inventing["pixel_auc"]
        maps = [
            f"{_area(areas[f'{name}, 5x5'])} ({_area(areas[f'{name}, 5x5, of another image'])})"
            for name in ("error after noise", "retranslated")
        ]
        rows.append([case, photos, *(f"{one['invented_percent']:.1f} %" for one in (sound, inventing)), *maps])
    titles = ("invented by the sound one", "by the other", "pixels: after noise", "pixels: retranslated")
    return _lines(titles, rows)


def _images(measured: Measured) -> list[str]:
    """How well the scores tell images that are invented in from all others of both."""
    rows = []
    for case, photos, found in _rows(measured):
        counts = [found[name]["images_with_inventions"] for name in ("sound", "hallucinating")]
        areas = found["image_auc"].values()
        cells = [_area(area) for area in areas] if counts[1] >= MIN_INVENTED_IN else ["few"] * len(areas)
        rows.append([case, photos, *map(str, counts), *cells])
    names = [name.replace("_", " ") for name in measured["results"][0]["with"]["image_auc"]]
    return _lines(("images of the sound one invented in", "of the other", *names), rows)


def _flags(measured: Measured) -> list[str]:
    """The shares of images that are flagged."""
    rows = []
    for case, photos, found in _rows(measured):
        sound, other = found["sound"], found["hallucinating"]
        shares = [one["flagged_percent"][by] for by in ("sound", "own") for one in (sound, other)]
        areas = {name: area for name, area in other["image_auc"].items() if area is not None}
        best = max(areas, key=lambda name: areas[name], default=None)
        named = "none" if best is None else f"{best.replace('_', ' ')}: {areas[best]:.2f}"
        rows.append([case, photos, *(f"{share:.0f} %" for share in shares), named])
    titles = ("sound one flagged", "the other flagged", "sound one by its own", "the other by its own")
    return _lines((*titles, "images of the other among each other: the best score"), rows)


def _controls(measured: Measured) -> list[str]:
    """Sound generators of two seeds, by the images that the first one holds out."""
    rows = []
    for one in measured["controls"]:
        own, others = one["flagged_percent"]
        areas = [_area(one["image_auc"][name]) for name in ("retranslated", "worst deviation")]
        rows.append([*map(str, one["seeds"]), f"{own:.0f} %", f"{others:.0f} %", *areas])
    titles = ("seed", "other seed", "its images flagged", "the other's flagged")
    return _lines(("told apart by retranslated", "by the worst deviation"), rows, titles)


def _rows(measured: Measured) -> list[tuple[str, str, dict[str, Any]]]:
    """The case, the photos, and what was found with them, of each row."""
    return [
        (found["case"], f"{photos} it", found[photos])
        for found in measured["results"]
        for photos in ("without", "with")
    ]


def _lines(
    titles: Sequence[str], rows: Sequence[Sequence[str]], first: Sequence[str] = ("object:share:seed", "test photos")
) -> list[str]:
    head = [*first, *titles]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _area(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
