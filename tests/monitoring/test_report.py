"""The report as a browser reads it: whole, escaped, self-contained, and its curves through the data."""

from __future__ import annotations

import base64
import getpass
import io
import itertools
import os
import platform
import re
import socket
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.config import TrainConfig, to_dict
from cyclegan_fast.errors import UserError
from cyclegan_fast.monitoring.chart import WIDTH, line_chart, nice_ticks, number, running_mean
from cyclegan_fast.monitoring.grids import to_image
from cyclegan_fast.monitoring.machine import machine_info
from cyclegan_fast.monitoring.markup import el, to_html
from cyclegan_fast.monitoring.report import training_seconds, write_report

VOID = {"meta", "img", "br", "hr", "link", "input"}
POISON = """<script>alert("1")</script><img src=x onerror='y'>&amp;"""


class Page(HTMLParser):
    """Tags with their attributes, texts, and a check that every tag closes where it should."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def write(path: Path, **changes: Any) -> Page:
    arguments: dict[str, Any] = {
        "title": "A run",
        "settings": to_dict(TrainConfig()),
        "machine": machine_info(),
        "events": [{"step": 10 * i, "losses": {"G_A": 1 / i, "G_B": None}, "steps_per_second": 5.0} for i in (1, 2, 3)],
        "images": [{"title": "A and B", "columns": ["A", "B"], "rows": [[torch.zeros(3, 8, 8), torch.ones(1, 8, 8)]]}],
    }
    write_report(path, **(arguments | changes))
    return Page(path.read_text(encoding="utf-8"))


def test_everything_that_comes_in_is_escaped(tmp_path: Path) -> None:
    metrics = {POISON: 0.5}
    page = write(
        tmp_path / "report.html",
        title=POISON,
        summary=POISON,
        settings={POISON: {POISON: POISON}, "x": POISON},
        machine={"cpu": POISON, "packages": {POISON: POISON}},
        events=[{"step": 1, "losses": {POISON: 1.0}}],
        images=[{"title": POISON, "columns": [POISON], "rows": [[torch.zeros(3, 4, 4)]]}],
        scores={POISON: metrics, "untranslated": {POISON: metrics}, "ceiling": metrics},
        score_history=[{"step": 1, POISON: metrics}],
        usage=POISON,
        notes=[POISON],
    )
    assert page.all("script") == []
    assert [image["alt"] for image in page.all("img")] == [f"{POISON}: {POISON}, row 1"]
    assert sum(text.count(POISON) for text in page.texts) >= 15
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_the_file_needs_nothing_else(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html")
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        assert all(source.startswith("data:") for name, source in attributes.items() if name == "src" and source)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert not re.search(r"https?://|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_images_and_charts_have_texts_for_screen_readers(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html")
    assert page.all("html")[0]["lang"] == "en"
    assert [image["alt"] for image in page.all("img")] == ["A and B: A, row 1", "A and B: B, row 1"]
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {section["aria-labelledby"] for section in page.all("section") if "aria-labelledby" in section} == ids


def test_small_images_are_stored_exactly_and_large_ones_nearly(tmp_path: Path) -> None:
    small, large = torch.rand(3, 64, 96) * 2 - 1, torch.linspace(-1, 1, 200).expand(3, 160, 200)
    images = [{"title": "x", "columns": ["a", "b", "c"], "rows": [[small, to_image(small), large], [small]]}]
    page = write(tmp_path / "report.html", images=images)
    decoded = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].split(",", 1)[1])))).astype(int)
        for image in page.all("img")
    ]
    for found in (decoded[0], decoded[1], decoded[3]):
        assert np.array_equal(found, np.asarray(to_image(small)))
    assert abs(decoded[2] - np.asarray(to_image(large))).max() <= 4
    assert (page.all("img")[2]["width"], page.all("img")[2]["height"]) == ("200", "160")


def test_scores_are_shown_beside_those_of_the_untranslated_images(tmp_path: Path) -> None:
    scores = {
        "photo_to_labels": {"pixel_accuracy": 0.9412, "fid": 62.1},
        "untranslated": {"photo_to_labels": {"pixel_accuracy": 0.7}},
        "ceiling": {"pixel_accuracy": 0.97},
        "images": 1100,
        "size": 64,
    }
    text = " ".join(write(tmp_path / "report.html", scores=scores).texts)
    for expected in ("photo → labels", "0.941", "62.1", "FID", "from 0.700", "0.970", "1,100 test images of 64 px"):
        assert expected in text
    with_protocol = write(tmp_path / "report.html", scores=scores | {"protocol": "9 test scenes (set 1a2b3c4d)"}).texts
    assert "Scored on 9 test scenes (set 1a2b3c4d); none was trained on." in " ".join(with_protocol)


def test_an_empty_run_still_has_a_report(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html", events=[], images=[], settings={}, machine={})
    assert page.all("svg") == [] and page.all("img") == []


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write(tmp_path / "file" / "report.html")


def test_neither_machine_nor_report_names_host_user_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("USER", "LOGNAME", "HOSTNAME", "HOME"):
        monkeypatch.setenv(variable, f"/secret/{variable}")
    monkeypatch.chdir(tmp_path)
    # A host's own name may be a word that stands in every report, such as "cpu".
    system = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((system[0], "the-hosts-name", *system[2:])))
    monkeypatch.setattr(platform, "_uname_cache", None)
    monkeypatch.setattr(socket, "gethostname", lambda: "the-hosts-name")
    assert platform.node() == "the-hosts-name" and getpass.getuser() == "/secret/LOGNAME"
    secrets = {"the-hosts-name", str(Path.cwd()), "/secret"}
    facts = machine_info()
    write(tmp_path / "report.html", machine=facts)
    text = re.sub(r'"data:[^"]+"', "", (tmp_path / "report.html").read_text(encoding="utf-8"))
    for secret in secrets:
        assert secret not in str(facts) and secret not in text
    assert not re.search(r"/(home|root|usr|tmp|work)\b", text)


def test_machine_info_describes_this_machine() -> None:
    facts = machine_info()
    assert (facts["python"], facts["torch"]) == (platform.python_version(), torch.__version__)
    assert facts["gpu_count"] == torch.cuda.device_count()
    assert facts["cores"] >= 1 and facts["memory_gib"] > 0.1 and facts["packages"]["numpy"] == np.__version__


def drawn(chart: str, name: str) -> list[tuple[float, float]]:
    """The data of a raw line, read back from its path by means of the axes' printed ticks."""
    page = Page(chart)
    ticks = [(a, t) for (tag, a), t in zip(page.tags, tag_texts(chart), strict=True) if tag == "text" and t != "step"]
    x_axis = [(float(a["x"]), float(t)) for a, t in ticks if a["text-anchor"] == "middle"]
    y_axis = [(float(a["y"]) - 4, float(t)) for a, t in ticks if a["text-anchor"] == "end" and float(a["x"]) < 46]
    path = next(a["d"] for a in page.all("path") if a.get("data-series") == name)
    points = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.-]+),([\d.-]+)", path)]
    return [(from_axis(x_axis, x), from_axis(y_axis, y)) for x, y in points]


def tag_texts(chart: str) -> list[str]:
    """The text right behind every start tag."""
    return [text.strip() for text in re.findall(r"<[a-z][^>]*>([^<]*)", chart)]


def from_axis(axis: list[tuple[float, float]], position: float) -> float:
    (p0, v0), (p1, v1) = axis[0], axis[-1]
    return v0 + (position - p0) * (v1 - v0) / (p1 - p0)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (40.0, -20.0), (0.01, 0.9)])
def test_curves_go_through_the_data(scale: float, offset: float) -> None:
    rng = np.random.default_rng(0)
    data = {name: [(10 * i, offset + scale * rng.random()) for i in range(1, 88)] for name in ("a", "b")}
    chart = to_html(line_chart("Losses", data)).removeprefix("<!DOCTYPE html>\n")
    for name, points in data.items():
        found = drawn(chart, name)
        assert len(found) == len(points)
        for (x, y), (found_x, found_y) in zip(points, found, strict=True):
            assert abs(found_x - x) < 870 / 400 and abs(found_y - y) < scale / 100


@pytest.mark.parametrize("scale", [1.25e-4, 0.00125, 1.0, 123_456.0, -0.00125, 5e6])
def test_labels_are_whole_and_apart(scale: float) -> None:
    """With 7.7 px for each digit and 11.5 for %: the widest of the style sheet's fonts, at its 12 px."""
    chart = to_html(line_chart("x", {"a": [(i, scale * i / 90) for i in range(90)]}, unit="%"))
    labels = re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)">([^<]+)', chart)
    assert sum(text.endswith("%") for *_, text in labels) >= 3
    spans = []
    for x, y, anchor, text in labels:
        width = 7.7 * len(text) + 3.8 * text.count("%")
        start = float(x) - {"end": width, "middle": width / 2}[anchor]
        assert start >= -0.5 and start + width <= WIDTH + 0.5, text
        spans.append((float(y), start, start + width))
    for (y, _, end), (next_y, start, _) in itertools.pairwise(sorted(spans)):
        assert y != next_y or start > end


def test_a_gap_stays_a_gap_and_a_lone_point_is_a_dot() -> None:
    chart = to_html(line_chart("x", {"a": [(1, 1.0), (2, None), (3, 2.0), (4, 1.0)]}))
    (raw,) = [a["d"] for a in Page(chart.split("\n", 1)[1]).all("path") if "data-series" in a]
    assert re.sub(r"[\d.,-]+", "", raw.replace("h0", "h")) == "MhMhL"
    assert "h0" in to_html(line_chart("x", {"a": [(5, 3.0)]}))


def test_long_curves_are_thinned_without_losing_a_spike() -> None:
    data = [(i, 1.0) for i in range(50_000)]
    data[31_337] = (31_337, 90.0)
    chart = to_html(line_chart("x", {"a": data})).removeprefix("<!DOCTYPE html>\n")
    assert len(chart) < 40_000
    raw = next(a["d"] for a in Page(chart).all("path") if "data-series" in a)
    heights = [float(y) for _, y in re.findall(r"[ML]([\d.-]+),([\d.-]+)", raw)]
    assert max(heights) - min(heights) > 150  # pixels


def test_the_running_mean_is_unbiased_and_smooth() -> None:
    assert all(y == pytest.approx(3.0) for _, y in running_mean([(i, 3.0) for i in range(200)]) if y is not None)
    noisy = [(i, 5.0 + (-1) ** i) for i in range(1000)]
    assert all(abs(y - 5.0) < 0.1 for _, y in running_mean(noisy)[300:] if y is not None)
    few = [(i, float(i)) for i in range(10)]
    assert running_mean(few) == few


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 4e-4), (-3, 7), (0.91, 0.93), (5, 5), (0, 0), (0, 123456)])
def test_ticks_are_few_round_and_enclose_the_data(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12 and 3 <= len(ticks) <= 8
    labels = [number(tick) for tick in ticks]
    assert len(set(labels)) == len(labels)
    assert [float(t.replace("k", "e3").replace("M", "e6")) for t in labels] == pytest.approx(ticks, abs=1e-9)


def test_pauses_do_not_count_as_training() -> None:
    events = [{"step": 100, "time": 0.0, "steps_per_second": 10.0}, {"step": 300, "time": 9e9, "steps_per_second": 5.0}]
    assert training_seconds(events) == 100 / 10 + 200 / 5


def test_markup_keeps_texts_and_elements_in_order() -> None:
    paragraph = el("p", "a & ", el("b", "<b>"), " c", None, " d", class_="x", aria_label='"q"', id=None)
    assert (
        to_html(paragraph).split("\n")[1] == '<p class="x" aria-label="&quot;q&quot;">a &amp; <b>&lt;b&gt;</b> c d</p>'
    )
