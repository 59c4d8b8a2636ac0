"""A contact sheet: a sample of A and B side by side, and below it the images that something is odd about."""

from __future__ import annotations

import functools
import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cyclegan_fast import ops
from cyclegan_fast.data.audit.findings import KINDS, AuditedImage, Finding
from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import decode, read
from cyclegan_fast.images.tensors import to_model_range

PAPER, CARD, INK, SOFT, LINE = "#f6f6f3", "#ffffff", "#17181c", "#646670", "#e3e3de"
COLOURS = {"error": "#c8342b", "warning": "#d4700f", "info": "#2f6fde"}

_WIDTH, _MARGIN, _GAP, _PADDING = 1480, 44, 20, 22
_COLUMNS, _ROWS = 4, 3  # of the sample of a domain
_TILES = 6  # flagged images in a row
_TILE_HEIGHT, _TEXT_HEIGHT = 150, 104
_MOST_OF_A_KIND = 12
_COPIES = 2  # pixels drawn for each pixel shown, which makes round corners smooth


def contact_sheet(
    title: str, summary: str, domains: Mapping[str, Sequence[AuditedImage]], findings: Sequence[Finding]
) -> bytes:
    """Draws the sheet.

    Args:
        title: Its headline.
        summary: A line below it.
        domains: The images of each domain; a sample of those for training is shown.
        findings: What is odd; of each kind the first ones are shown.

    Returns:
        A PNG file.
    """
    pages = [_head(title, summary), _samples(domains)]
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
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _choose(findings: Sequence[Finding]) -> list[Finding]:
    """The first ones of each kind."""
    counts: Counter[str] = Counter()
    chosen = []
    for finding in findings:
        counts[finding.kind] += 1
        if counts[finding.kind] <= _MOST_OF_A_KIND:
            chosen.append(finding)
    return chosen


def _head(title: str, summary: str) -> Image.Image:
    page = Image.new("RGB", (_inner_width(), 78), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((0, 0), _fit(title, _font(32), page.width, keep_end=True), INK, _font(32))
    draw.text((1, 48), _fit(summary, _font(17), page.width), SOFT, _font(17))
    return page


def _samples(domains: Mapping[str, Sequence[AuditedImage]]) -> Image.Image:
    """The cards of A and B, side by side; or of pairs, for training and for the test."""
    width = (_inner_width() - _GAP) // 2
    names = ("train", "test" if "test" in domains else "val") if "train" in domains else ("trainA", "trainB")
    cards = [_sample(name, domains.get(name, []), width) for name in names]
    page = Image.new("RGB", (_inner_width(), max(card.height for card in cards)), PAPER)
    for i, card in enumerate(cards):
        page.paste(card, (i * (width + _GAP), 0))
    return page


def _sample(name: str, images: Sequence[AuditedImage], width: int) -> Image.Image:
    good = [image for image in images if isinstance(image.found, ImageMetadata)]
    count = min(len(good), _COLUMNS * _ROWS)
    chosen = [good[i * len(good) // count] for i in range(count)]  # spread evenly
    side = (width - 2 * _PADDING - (_COLUMNS - 1) * 10) // _COLUMNS
    card = _card(width, 54 + _PADDING + _ROWS * (side + 30))
    draw = ImageDraw.Draw(card)
    draw.text((_PADDING, 16), name, INK, _font(20))
    label = f"{len(good):,} images"
    draw.text((width - _PADDING - _font(16).getlength(label), 19), label, SOFT, _font(16))
    for i, image in enumerate(chosen):
        left, top = _PADDING + i % _COLUMNS * (side + 10), 54 + i // _COLUMNS * (side + 30)
        card.paste(_thumbnail(image, side, side), (left, top))
        draw.text((left + 1, top + side + 4), _fit(_short(image), _font(12), side, keep_end=True), SOFT, _font(12))
    return card


def _flagged(severity: str, findings: Sequence[Finding]) -> Image.Image:
    """The card of one severity."""
    chosen, colour = _choose(findings), COLOURS[severity]
    rows = -(-len(chosen) // _TILES)
    width = _inner_width()
    tile = (width - 2 * _PADDING - (_TILES - 1) * 16) // _TILES
    card = _card(width, 54 + 6 + rows * (_TILE_HEIGHT + _TEXT_HEIGHT))
    draw = ImageDraw.Draw(card)
    draw.rounded_rectangle((0, 18, 5, 40), 2, colour)
    draw.text((_PADDING, 16), {"info": "Good to know"}.get(severity, f"{severity.capitalize()}s"), colour, _font(20))
    count = f"{len(findings):,}" if len(findings) == len(chosen) else f"{len(chosen)} of {len(findings):,}"
    draw.text((width - _PADDING - _font(16).getlength(count), 19), count, SOFT, _font(16))
    for i, finding in enumerate(chosen):
        left, top = _PADDING + i % _TILES * (tile + 16), 54 + i // _TILES * (_TILE_HEIGHT + _TEXT_HEIGHT)
        card.paste(_tile(finding, tile), (left, top))
    return card


def _tile(finding: Finding, width: int) -> Image.Image:
    """A flagged image, beside the one that it is too like, and below it what is odd."""
    tile = Image.new("RGB", (width, _TILE_HEIGHT + _TEXT_HEIGHT), CARD)
    draw = ImageDraw.Draw(tile)
    shown = [image for image in (finding.image, finding.like) if image is not None]
    each = (width - 4 * (len(shown) - 1)) // len(shown)
    for i, image in enumerate(shown):
        tile.paste(_thumbnail(image, each, _TILE_HEIGHT), (i * (width - each), 0))
    top = _TILE_HEIGHT + 5
    draw.text((1, top), _fit(KINDS[finding.kind][1], _font(13), width), COLOURS[finding.severity], _font(13))
    draw.text((1, top + 18), _fit(finding.name, _font(13), width, keep_end=True), INK, _font(13))
    for n, line in enumerate(_wrap(finding.reason, _font(12), width, lines=3)):
        draw.text((1, top + 37 + 15 * n), line, SOFT, _font(12))
    return tile


def _thumbnail(image: AuditedImage, width: int, height: int) -> Image.Image:
    """The whole image on a rounded plate of the size; one that cannot be shown is a crossed plate."""
    plate = Image.new("RGB", (width, height), LINE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that only the first frame is shown, say: the sheet tells it
            shown = _decode(image)
        shown.thumbnail((width, height))
        if max(shown.size) < min(width, height) // 2:  # small images keep their pixels, but can be seen
            shown = ImageOps.contain(shown, (width, height), Image.Resampling.NEAREST)
        plate.paste(shown, ((width - shown.width) // 2, (height - shown.height) // 2))
    except UserError:
        draw = ImageDraw.Draw(plate)
        x, y, arm = width // 2, height // 2, 16
        for sign in (-1, 1):
            draw.line((x - arm, y - sign * arm, x + arm, y + sign * arm), SOFT, 3)
    return _rounded(plate, 8, CARD)


def _decode(image: AuditedImage) -> Image.Image:
    """As RGB: floating-point values from their least to their greatest, many channels as sample grids show them."""
    if not isinstance(image.found, ImageMetadata):
        return decode(image.source, 3)
    pixels = torch.from_numpy(read(image.source, image.found.pixel_format))[..., :3]  # [H, W, 1 to 3]
    values = to_model_range((pixels if pixels.shape[2] == 3 else pixels[..., :1])[None].contiguous())
    return Image.fromarray(ops.to_uint8(values)[0].expand(-1, -1, 3).contiguous().numpy())  # [H, W, 3]


def _card(width: int, height: int) -> Image.Image:
    return _rounded(Image.new("RGB", (width, height), CARD), 14, PAPER, LINE)


def _rounded(image: Image.Image, radius: int, around: str, outline: str | None = None) -> Image.Image:
    """Rounds the corners of an image that lies on the colour `around`."""
    width, height = image.size
    mask = Image.new("L", (width * _COPIES, height * _COPIES), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius * _COPIES, 255)
    rounded = Image.new("RGB", image.size, around)
    rounded.paste(image, (0, 0), mask.resize(image.size, Image.Resampling.BOX))
    if outline:
        ImageDraw.Draw(rounded).rounded_rectangle((0, 0, width - 1, height - 1), radius, outline=outline)
    return rounded


def _short(image: AuditedImage) -> str:
    """The name without the domain, which the card tells already."""
    return image.name.removeprefix(f"{image.domain}/")


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, *, keep_end: bool = False) -> str:
    """Shortens a text in its middle (what tells file names apart is their end) or at its end."""
    text = _printable(text)
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        head = kept // 3 if keep_end else kept
        shorter = f"{text[:head]}…{text[len(text) - (kept - head) :] if keep_end else ''}"
        if font.getlength(shorter) <= width:
            return shorter
    return ""


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int) -> list[str]:
    """Breaks a text into at most so many lines; the last one is shortened."""
    wrapped: list[str] = [""]
    for word in _printable(text).split():
        longer = f"{wrapped[-1]} {word}".strip()
        if font.getlength(longer) <= width or not wrapped[-1] or len(wrapped) == lines:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    return [_fit(line, font, width) for line in wrapped]


def _printable(text: str) -> str:
    """Without line breaks and the like, and without bytes of a name that are no text."""
    return "".join(c if c.isprintable() else "?" for c in text)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _inner_width() -> int:
    return _WIDTH - 2 * _MARGIN
