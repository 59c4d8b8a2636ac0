"""What the contact sheet is drawn from: fonts and texts that fit, rounded cards, thumbnails."""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator

from PIL import Image, ImageDraw, ImageFont, ImageOps

from cyclegan_fast import ops
from cyclegan_fast.data.audit.findings import AuditedImage
from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import decode, read
from cyclegan_fast.images.tensors import as_tensor, to_model_range

PAPER, CARD, INK, SOFT, LINE = "#f6f6f3", "#ffffff", "#17181c", "#646670", "#e3e3de"

_SUPERSAMPLING = 2  # pixels drawn for each pixel shown, which makes round corners smooth

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def thumbnail(image: AuditedImage, width: int, height: int) -> Image.Image:
    """Draws the whole image on a rounded plate of the size; an image that cannot be read is a crossed plate."""
    plate = Image.new("RGB", (width, height), LINE)
    try:
        with _unreported():
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


@contextlib.contextmanager
def _unreported() -> Iterator[None]:
    """Suppresses what decoding warns of, that only the first frame is shown for example: it is among the findings."""
    logger = logging.getLogger("cyclegan_fast.images")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _decode(image: AuditedImage) -> Image.Image:
    """As RGB: floating-point values over their own range, of more than three channels the first three."""
    metadata = image.metadata
    if not isinstance(metadata, ImageMetadata) or (metadata.images and metadata.values != "float"):
        return decode(image.file, 3)
    pixels = as_tensor(read(image.file, metadata.pixel_format))[..., :3]  # [H, W, 1 to 3]
    values = to_model_range((pixels if pixels.shape[2] == 3 else pixels[..., :1])[None].contiguous())
    return Image.fromarray(ops.to_uint8(values)[0].expand(-1, -1, 3).contiguous().numpy())  # [H, W, 3]


def draw_card(width: int, height: int) -> Image.Image:
    """Draws an empty card on paper."""
    return _rounded(Image.new("RGB", (width, height), CARD), 14, PAPER, LINE)


def _rounded(image: Image.Image, radius: int, around: str, outline: str | None = None) -> Image.Image:
    """Rounds the corners of an image that lies on the colour `around`."""
    width, height = image.size
    mask = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), radius * _SUPERSAMPLING, 255)
    rounded = Image.new("RGB", image.size, around)
    rounded.paste(image, (0, 0), mask.resize(image.size, Image.Resampling.BOX))
    if outline:
        ImageDraw.Draw(rounded).rounded_rectangle((0, 0, width - 1, height - 1), radius, outline=outline)
    return rounded


def fit(text: str, font: Font, width: int, *, keep_end: bool = False) -> str:
    """Shortens a text to `width` pixels, at its end or in its middle (file names differ at their end)."""
    text = _printable(text)
    if font.getlength(text) <= width:
        return text
    for length in range(len(text) - 1, 0, -1):
        head = length // 3 if keep_end else length
        shorter = f"{text[:head]}…{text[len(text) - (length - head) :] if keep_end else ''}"
        if font.getlength(shorter) <= width:
            return shorter
    return ""


def wrap(text: str, font: Font, width: int, lines: int) -> list[str]:
    """Breaks a text into at most so many lines of `width` pixels; the last one is shortened."""
    wrapped: list[str] = [""]
    for word in _printable(text).split():
        longer = f"{wrapped[-1]} {word}".strip()
        if font.getlength(longer) <= width or not wrapped[-1] or len(wrapped) == lines:
            wrapped[-1] = longer
        else:
            wrapped.append(word)
    return [fit(line, font, width) for line in wrapped]


def _printable(text: str) -> str:
    """Without line breaks and the like, and without bytes of a name that are no text."""
    return "".join(c if c.isprintable() else "?" for c in text)


@functools.cache
def load_font(size: int) -> Font:
    """Returns Pillow's own font, `size` pixels high."""
    return ImageFont.load_default(size)
