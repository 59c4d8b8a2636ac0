"""What the pages are made of: sections, images side by side, tables; one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict
from xml.etree.ElementTree import Element

from PIL import Image
from torch import Tensor

from cyclegan_fast.files import write_atomically
from cyclegan_fast.monitoring.grids import encode, to_image
from cyclegan_fast.monitoring.markup import el, to_html
from cyclegan_fast.monitoring.style import CSS

SHARP_SIDE = 64  # pixels; of coded images
SMALL_SIDE = 128  # pixels; up to this size images are stored exactly and shown with sharp pixels
CAPITALS = {"l1": "L1", "iou": "IoU", "fid": "FID", "kid": "KID", "ssim": "SSIM", "psnr": "PSNR", "lr": "learning rate"}


class ImageBlock(TypedDict):
    """Images side by side: one caption per column, rows of float [C, H, W] in [-1, 1] or of PIL images."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Tensor | Image.Image]]
    names: NotRequired[Sequence[str]]
    """Of the rows."""


def write_page(path: Path, title: str, *body: Element | None, refresh: int | None = None) -> Path:
    """Writes a page.

    Args:
        path: The .html file.
        title: Its name in the browser's tab.
        body: Its parts.
        refresh: Seconds after which a browser loads it again; None for a page that stays as it is.

    Returns:
        `path`.

    Raises:
        UserError: The file cannot be written.
    """
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", http_equiv="refresh", content=refresh) if refresh else None,
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


def section(title: str, *children: Element | None) -> Element:
    """Puts children below a heading."""
    name = title.lower().replace(" ", "-")
    return el("section", el("h2", title, id=name), *children, aria_labelledby=name)


def image_cards(blocks: Sequence[ImageBlock], *, scroll: bool = False) -> Element:
    """Draws blocks of images.

    Args:
        blocks: What to show.
        scroll: For rows of many small images: the first column stays in place and the others scroll below it.
    """
    return el("div", *(_card(block, scroll) for block in blocks), class_="cards wide" if scroll else "cards")


def _card(block: ImageBlock, scroll: bool) -> Element:
    columns, names = block["columns"], block.get("names", ())
    cells: list[Element] = [el("span", caption) for caption in columns]
    for i, row in enumerate(block["rows"]):
        name = names[i] if names else f"row {i + 1}"
        for column, pixels in zip(columns, row, strict=False):
            cells.append(_image(pixels, f"{block['title']}: {column}, {name}", name if names else None, scroll))
        cells += [el("span") for _ in range(len(columns) - len(row))]
    if scroll:
        for first in cells[:: len(columns)]:
            first.set("class", f"first {first.get('class', '')}".strip())
    width = "minmax(76px, 210px)" if scroll else "minmax(0, 1fr)"
    style = f"grid-template-columns: repeat({len(columns)}, {width})"
    strip = el("div", *cells, class_="strip", style=style)
    return el("div", el("h3", block["title"]), el("div", strip, class_="scroll") if scroll else strip, class_="card")


def _image(pixels: Tensor | Image.Image, alt: str, title: str | None, coded: bool) -> Element:
    """An image within the page; `coded` ones are JPEGs however small they are."""
    image = pixels.convert("RGB") if isinstance(pixels, Image.Image) else to_image(pixels)
    small = max(image.size) <= SMALL_SIDE
    kind = "PNG" if small and not coded else "JPEG"
    source = f"data:image/{kind.lower()};base64,{base64.b64encode(encode(image, kind)).decode()}"
    sharp = "small" if max(image.size) <= (SHARP_SIDE if coded else SMALL_SIDE) else None
    return el("img", src=source, alt=alt, title=title, width=image.width, height=image.height, class_=sharp)


def as_text(value: Any) -> str:
    """A nested value as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {as_text(inner)}" for name, inner in value.items() if inner not in (None, [], {}))
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def breakable(text: str) -> list[Element | str]:
    """A text whose lines may break after a / too, such as that of a path."""
    first, *rest = re.split("(?<=/)", text)
    return [first, *(part for piece in rest for part in (el("wbr"), piece))]


def table_card(heads: Sequence[str], rows: Sequence[Element], *below: Element, kind: str = "") -> Element:
    """Draws a table that scrolls sideways where it is wide.

    Args:
        heads: Of the columns.
        rows: Elements <tr>.
        below: What stands below it in its card.
        kind: A further class of the style sheet.
    """
    titles = el("tr", *(el("th", head, scope="col") for head in heads))
    table = el("table", el("thead", titles), el("tbody", *rows))
    return el("div", el("div", table, class_="scroll"), *below, class_=f"card runs {kind}".strip())


def settings_table(title: str, rows: Mapping[str, Any]) -> Element:
    """Draws names and values in two columns."""
    body = [el("tr", el("th", name, scope="row"), el("td", str(value))) for name, value in rows.items()]
    return el("section", el("h3", title) if title else None, el("table", el("tbody", *body)))
