"""Grids of sample images: one row per sample, one captioned column per stage."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import write_atomically

GAP = 2  # pixels between images
CAPTION_HEIGHT = 15  # pixels
PAPER, INK = (255, 255, 255), (60, 60, 60)
SAVE_OPTIONS = {"PNG": {}, "JPEG": {"quality": 92, "subsampling": 0}}

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


class Layout(NamedTuple):
    """Where everything is in a grid."""

    size: tuple[int, int]
    """Width and height, in pixels."""
    lefts: list[int]
    """Of each column."""
    boxes: list[list[Box]]
    """Of the images of each row."""


def to_image(pixels: Tensor) -> Image.Image:
    """Turns float [C, H, W] in [-1, 1] into an RGB image: rounded to 8 bits and clamped, NaN black.

    1 channel is grey and 3 are RGB; for others see `shown_channels`.
    """
    levels = ops.to_uint8(pixels[None, : 3 if len(pixels) > 2 else 1].contiguous())[0].cpu()
    return Image.fromarray(levels.expand(-1, -1, 3).contiguous().numpy())  # [H, W, 3]


def reduced(image: Image.Image, side: int) -> Image.Image:
    """Returns the image, made smaller where its longer side has more pixels than `side`."""
    factor = side / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(1, round(length * factor)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def shown_channels(channels: int) -> str:
    """Returns a description of the channels that are shown of so many; empty if all are."""
    return {1: "", 2: "the first, as grey", 3: ""}.get(channels, "the first three, as RGB")


def sample_grid(rows: Sequence[Sequence[Tensor | Image.Image]], labels: Sequence[str]) -> Image.Image:
    """Lays images out in rows under column captions.

    Args:
        rows: RGB images, or float [C, H, W] in [-1, 1] shown as by `to_image`; rows may be shorter than others and
            sizes may differ: each column is as wide as its widest image or caption, each row as tall as its tallest.
        labels: One caption per column.

    Returns:
        An RGB image.

    Raises:
        ValueError: No rows, or a row with more images than there are labels.
    """
    if not rows or any(len(row) > len(labels) for row in rows):
        raise ValueError(f"sample_grid: rows of {[len(row) for row in rows]} images for {len(labels)} labels")
    images = [[image if isinstance(image, Image.Image) else to_image(image) for image in row] for row in rows]
    size, lefts, boxes = lay_out([[image.size for image in row] for row in images], labels)
    grid = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(grid)
    for left, label in zip(lefts, labels, strict=True):
        draw.text((left, 1), label, fill=INK, font=ImageFont.load_default())
    for image_row, box_row in zip(images, boxes, strict=True):
        for image, box in zip(image_row, box_row, strict=True):
            grid.paste(image, box)
    return grid


def lay_out(sizes: Sequence[Sequence[tuple[int, int]]], labels: Sequence[str]) -> Layout:
    """Returns where `sample_grid` puts images of these sizes (width, height), row by row."""
    font = ImageFont.load_default()
    widths = [
        max([int(font.getlength(label)) + 1, *(row[i][0] for row in sizes if i < len(row))])
        for i, label in enumerate(labels)
    ]
    heights = [max((height for _, height in row), default=0) for row in sizes]
    lefts = [GAP + sum(widths[:i]) + GAP * i for i in range(len(widths) + 1)]
    tops = [CAPTION_HEIGHT + sum(heights[:i]) + GAP * i for i in range(len(heights) + 1)]
    boxes = [
        [(left, top, left + width, top + height) for left, (width, height) in zip(lefts, row, strict=False)]
        for top, row in zip(tops, sizes, strict=False)
    ]
    return Layout((lefts[-1], tops[-1]), lefts[:-1], boxes)


def save_grid(path: Path, grid: Image.Image, comment: str = "") -> None:
    """Writes `grid` to a .png, .jpg or .jpeg file, whole or not at all; a .jpg may hold a comment, ASCII.

    Raises:
        UserError: Another extension, or the file cannot be written.
    """
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path}: a sample grid is a .png, .jpg or .jpeg file")
    write_atomically(path, encode(grid, kind, **({"comment": comment} if comment else {})))


def encode(image: Image.Image, kind: str, **options: str) -> bytes:
    """The bytes of `image` as a "PNG" or "JPEG" file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **SAVE_OPTIONS[kind], **options)
    return buffer.getvalue()
