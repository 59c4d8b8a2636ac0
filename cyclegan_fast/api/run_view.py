"""How a notebook shows a run: a small page of the report's parts, in a frame that keeps their styles to themselves."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from cyclegan_fast.monitoring.curves import draw_charts, event_series
from cyclegan_fast.monitoring.markup import el, to_html
from cyclegan_fast.monitoring.style import CSS

HEIGHT = 520  # pixels of the frame, where a notebook does not let it measure itself
SMALLER = "main { padding: 4px 8px } header { margin: 0 0 12px } body { font-size: 14px }"
FIT_CONTENT = "this.style.height = this.contentDocument.documentElement.scrollHeight + 'px'"


def run_view(title: str, where: str, records: Sequence[Mapping[str, Any]], grid: Path | None) -> str:
    """Makes the view of a run.

    Args:
        title: Its name.
        where: Where it is, in a few words.
        records: Its log records, from `read_events`.
        grid: The file of its newest sample grid.

    Returns:
        The HTML of an <iframe>.
    """
    charts = draw_charts(event_series(records))
    header = el("header", el("h3", title), el("p", where, class_="summary"))
    body = el("body", el("main", header, _image(grid) if grid else None, el("div", *charts, class_="charts")))
    page = to_html(el("html", el("head", el("meta", charset="utf-8"), el("style", CSS + SMALLER)), body))
    style = "width: 100%; border: 0; resize: vertical"
    return f'<iframe srcdoc="{html.escape(page)}" height="{HEIGHT}" style="{style}" onload="{FIT_CONTENT}"></iframe>'


def _image(grid: Path) -> Element:
    kind = "png" if grid.suffix == ".png" else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(grid.read_bytes()).decode()}"
    return el(
        "p", el("img", src=source, alt=f"Sample grid {grid.stem}", style="max-width: 100%"), style="max-width: none"
    )
