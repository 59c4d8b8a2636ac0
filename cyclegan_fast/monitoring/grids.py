"""Grids of sample images: one row per sample, one captioned column per stage."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import write_atomically

GAP = 2  # pixels between images
CAPTION_HEIGHT = 15  # pixels
PAPER, INK = (255, 255, 255), (60, 60, 60)
SAVE_OPTIONS = {"PNG": {}, "JPEG": {"quality": 92, "subsampling": 0}}


def to_image(pixels: Tensor) -> Image.Image:
    """Turns float [C, H, W] in [-1, 1] into an RGB image: rounded to 8 bits and clamped, NaN black.

    1 channel is grey and 3 are RGB; for others see `shown_channels`.
    """
    levels = ops.to_uint8(pixels[None, : 3 if len(pixels) > 2 else 1].contiguous())[0].cpu()
    return Image.fromarray(levels.expand(-1, -1, 3).contiguous().numpy())  # [H, W, 3]


def shown_channels(channels: int) -> str:
    """Returns a description of the channels that are shown of so many; empty if all are."""
    return {1: "", 2: "the first, as grey", 3: ""}.get(channels, "the first three, as RGB")


def sample_grid(rows: Sequence[Sequence[Tensor]], labels: Sequence[str]) -> Image.Image:
    """Lays images out in rows under column captions.

    Args:
        rows: Images, each float [C, H, W] in [-1, 1], shown as by `to_image`; rows may be shorter than others and
            sizes may differ: each column is as wide as its widest image or caption, each row as tall as its tallest.
        labels: One caption per column.

    Returns:
        An RGB image.

    Raises:
        ValueError: No rows, or a row with more images than there are labels.
    """
    if not rows or any(len(row) > len(labels) for row in rows):
        raise ValueError(f"sample_grid: rows of {[len(row) for row in rows]} images for {len(labels)} labels")
    images = [[to_image(pixels) for pixels in row] for row in rows]
    font = ImageFont.load_default()
    widths = [
        max([int(font.getlength(label)) + 1, *(row[i].width for row in images if i < len(row))])
        for i, label in enumerate(labels)
    ]
    heights = [max((image.height for image in row), default=0) for row in images]
    lefts = [GAP + sum(widths[:i]) + GAP * i for i in range(len(widths) + 1)]
    tops = [CAPTION_HEIGHT + sum(heights[:i]) + GAP * i for i in range(len(heights) + 1)]

    grid = Image.new("RGB", (lefts[-1], tops[-1]), PAPER)
    draw = ImageDraw.Draw(grid)
    for left, label in zip(lefts, labels, strict=False):
        draw.text((left, 1), label, fill=INK, font=font)
    for top, row in zip(tops, images, strict=False):
        for left, image in zip(lefts, row, strict=False):
            grid.paste(image, (left, top))
    return grid


def save_grid(path: Path, grid: Image.Image) -> None:
    """Writes `grid` to a .png, .jpg or .jpeg file, whole or not at all.

    Raises:
        UserError: Another extension, or the file cannot be written.
    """
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path}: a sample grid is a .png, .jpg or .jpeg file")
    write_atomically(path, encode(grid, kind))


def encode(image: Image.Image, kind: str) -> bytes:
    """The bytes of `image` as a "PNG" or "JPEG" file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **SAVE_OPTIONS[kind])
    return buffer.getvalue()
