"""The contact sheet: a random sample of A and B side by side, and below it the images with findings."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from cyclegan_fast.data.audit.drawing import CARD, INK, PAPER, SOFT, draw_card, fit, load_font, thumbnail, wrap
from cyclegan_fast.data.audit.findings import KINDS, AuditedImage, Finding
from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.data.rng import draw_shown

COLOURS = {"error": "#c8342b", "warning": "#d4700f", "info": "#2f6fde"}

_WIDTH, _MARGIN, _GAP, _PADDING = 1480, 44, 20, 22
_COLUMNS, _ROWS = 4, 3  # of the selection of a domain
_TILES = 6  # flagged images in a row
_TILE_HEIGHT, _TEXT_HEIGHT = 150, 104
_MAX_OF_A_KIND = 12


def contact_sheet(
    title: str, summary: str, domains: Mapping[str, Sequence[AuditedImage]], findings: Sequence[Finding]
) -> bytes:
    """Draws the sheet.

    Args:
        title: Its headline.
        summary: A line below it.
        domains: The images of each domain; a random sample of those for training is shown, the same every time.
        findings: Of each kind the first ones are shown.

    Returns:
        A PNG file.
    """
    pages = [_head(title, summary), _selections(domains)]
    for severity in COLOURS:
        flagged = [f for f in findings if f.severity == severity and f.image is not None]
        if flagged:
            pages.append(_flagged(severity, flagged))
    height = sum(page.height for page in pages) + _GAP * (len(pages) - 1) + 2 * _MARGIN
    sheet = Image.new("RGB", (_WIDTH, height), PAPER)
    top = _MARGIN
    for page in pages:
        sheet.paste(page, (_MARGIN, top))
        top += page.height + _GAP
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _choose(findings: Sequence[Finding]) -> list[Finding]:
    """Returns the first ones of each kind."""
    counts: Counter[str] = Counter()
    chosen = []
    for finding in findings:
        counts[finding.kind] += 1
        if counts[finding.kind] <= _MAX_OF_A_KIND:
            chosen.append(finding)
    return chosen


def _head(title: str, summary: str) -> Image.Image:
    page = Image.new("RGB", (_inner_width(), 78), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((0, 0), fit(title, load_font(32), page.width, keep_end=True), INK, load_font(32))
    draw.text((1, 48), fit(summary, load_font(17), page.width), SOFT, load_font(17))
    return page


def _selections(domains: Mapping[str, Sequence[AuditedImage]]) -> Image.Image:
    """The cards of A and B, side by side; or of pairs, for training and for the test."""
    width = (_inner_width() - _GAP) // 2
    names = ("train", "test" if "test" in domains else "val") if "train" in domains else ("trainA", "trainB")
    cards = [_selection(name, domains.get(name, []), width) for name in names]
    page = Image.new("RGB", (_inner_width(), max(card.height for card in cards)), PAPER)
    for i, card in enumerate(cards):
        page.paste(card, (i * (width + _GAP), 0))
    return page


def _selection(name: str, images: Sequence[AuditedImage], width: int) -> Image.Image:
    good = [image for image in images if isinstance(image.metadata, ImageMetadata)]
    chosen = [good[i] for i in sorted(draw_shown(len(good), _COLUMNS * _ROWS))]
    side = (width - 2 * _PADDING - (_COLUMNS - 1) * 10) // _COLUMNS
    card = draw_card(width, 54 + _PADDING + _ROWS * (side + 30))
    draw = ImageDraw.Draw(card)
    draw.text((_PADDING, 16), name, INK, load_font(20))
    label = f"{len(good):,} images"
    draw.text((width - _PADDING - load_font(16).getlength(label), 19), label, SOFT, load_font(16))
    for i, image in enumerate(chosen):
        left, top = _PADDING + i % _COLUMNS * (side + 10), 54 + i // _COLUMNS * (side + 30)
        card.paste(thumbnail(image, side, side), (left, top))
        draw.text(
            (left + 1, top + side + 4), fit(_short(image), load_font(12), side, keep_end=True), SOFT, load_font(12)
        )
    return card


def _flagged(severity: str, findings: Sequence[Finding]) -> Image.Image:
    """The card of one severity."""
    chosen, colour = _choose(findings), COLOURS[severity]
    rows = -(-len(chosen) // _TILES)
    width = _inner_width()
    tile = (width - 2 * _PADDING - (_TILES - 1) * 16) // _TILES
    card = draw_card(width, 54 + 6 + rows * (_TILE_HEIGHT + _TEXT_HEIGHT))
    draw = ImageDraw.Draw(card)
    draw.rounded_rectangle((0, 18, 5, 40), 2, colour)
    draw.text(
        (_PADDING, 16), {"info": "Good to know"}.get(severity, f"{severity.capitalize()}s"), colour, load_font(20)
    )
    count = f"{len(findings):,}" if len(findings) == len(chosen) else f"{len(chosen)} of {len(findings):,}"
    draw.text((width - _PADDING - load_font(16).getlength(count), 19), count, SOFT, load_font(16))
    for i, finding in enumerate(chosen):
        left, top = _PADDING + i % _TILES * (tile + 16), 54 + i // _TILES * (_TILE_HEIGHT + _TEXT_HEIGHT)
        card.paste(_tile(finding, tile), (left, top))
    return card


def _tile(finding: Finding, width: int) -> Image.Image:
    """An image with a finding, beside the one that it is too similar to, and below it the finding."""
    tile = Image.new("RGB", (width, _TILE_HEIGHT + _TEXT_HEIGHT), CARD)
    draw = ImageDraw.Draw(tile)
    shown = [image for image in (finding.image, finding.like) if image is not None]
    each = (width - 4 * (len(shown) - 1)) // len(shown)
    for i, image in enumerate(shown):
        tile.paste(thumbnail(image, each, _TILE_HEIGHT), (i * (width - each), 0))
    top = _TILE_HEIGHT + 5
    draw.text((1, top), fit(KINDS[finding.kind][1], load_font(13), width), COLOURS[finding.severity], load_font(13))
    draw.text((1, top + 18), fit(finding.name, load_font(13), width, keep_end=True), INK, load_font(13))
    for n, line in enumerate(wrap(finding.reason, load_font(12), width, lines=3)):
        draw.text((1, top + 37 + 15 * n), line, SOFT, load_font(12))
    return tile


def _short(image: AuditedImage) -> str:
    """The name without the domain, which is the title of the card."""
    return image.name.removeprefix(f"{image.domain}/")


def _inner_width() -> int:
    return _WIDTH - 2 * _MARGIN
