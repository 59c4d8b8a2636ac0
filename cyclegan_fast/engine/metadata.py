"""What travels with an exported generator, as JSON: beside its file, in the file's own header, or both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cyclegan_fast.config import PixelFormat, from_dict
from cyclegan_fast.documents import DocumentError, Maybe, Number, check, parse_json, shown
from cyclegan_fast.engine.info import PRECISIONS, EngineInfo, Precision
from cyclegan_fast.engine.shapes import ShapeLimits, Shapes
from cyclegan_fast.errors import UserError
from cyclegan_fast.metrics import Direction

METADATA_KEY = "cyclegan_fast"
"""Under which a .safetensors or .onnx file has it in its header."""
FORMAT_VERSION = 1
DEFAULT_SIZE_DIVISOR, DEFAULT_MIN_SIZE = 4, 8
"""Of files without metadata: those of the residual generators."""

Metadata = dict[str, Any]
MAX_SIDE = 2**16
"""Pixels, or images of a batch: beyond it a file is damaged, or made to exhaust the memory."""
MAX_MIN_PIXELS = 2**28
MAX_CHANNELS = 2**10
_SHAPE = {
    "direction": str,
    "model": Maybe(dict),
    "images": Maybe({"in": dict, "out": dict}),
    "versions": Maybe({str: str}),
    "precision": Maybe(str),
    "sha256": Maybe(str),
    "shapes": Maybe(dict),
    "compiled": Maybe(dict),
}
_RENAMED = {"multiple": "size_divisor", "smallest": "min_size"}  # keys as 0.1 wrote them


def read_metadata(content: str | bytes, path: Path | str) -> Metadata:
    """Reads what was written about the generator of the file `path`.

    Raises:
        UserError: A newer version wrote it.
        DocumentError: It is damaged.
    """
    metadata = parse_json(content)
    check(metadata, {"format": Number(0)})
    if metadata["format"] > FORMAT_VERSION:
        raise UserError(f"{path} was exported by a newer cyclegan_fast: upgrade the package")
    check(metadata, _SHAPE)
    if metadata["direction"] not in ("AtoB", "BtoA"):
        raise DocumentError(f"the direction is {shown(metadata['direction'])}")
    return metadata


def read_engine_metadata(content: str | bytes, path: Path | str) -> Metadata:
    """The same of an engine file, with all that an engine must know of itself.

    Raises:
        UserError: A newer version wrote it.
        DocumentError: It is damaged.
    """
    metadata = read_metadata(content, path)
    for old, new in _RENAMED.items():
        metadata.setdefault(new, metadata.pop(old, None))
    check(metadata, {"size_divisor": Number(1, MAX_SIDE), "min_size": Number(1, MAX_SIDE)})
    if metadata.get("precision", "fp32") not in PRECISIONS:
        raise DocumentError(f"the precision is {shown(metadata['precision'])}")
    read_shapes(metadata)
    if read_pixel_formats(metadata, str(path)) is None:  # written by 0.1
        check(metadata, {"in_channels": Number(1, MAX_CHANNELS), "out_channels": Number(1, MAX_CHANNELS)})
    return metadata


def read_shapes(metadata: Metadata) -> Shapes | None:
    """The shapes that a file was built for; None of a file that takes all.

    Raises:
        DocumentError: They are damaged, or larger than any image is.
    """
    if metadata.get("shapes") is None:
        return None
    check(metadata["shapes"], {end: [Number(1, MAX_SIDE)] for end in Shapes._fields}, "shapes")
    shapes = Shapes(*(tuple(metadata["shapes"][end]) for end in Shapes._fields))
    if any(len(shape) != 3 for shape in shapes) or any(
        not low <= best <= high for low, best, high in zip(*shapes, strict=True)
    ):
        raise DocumentError(f"shapes are {shown(metadata['shapes'])}")
    if math.prod(shapes.min) > MAX_MIN_PIXELS:  # smaller batches are enlarged to it
        raise DocumentError(f"the smallest shape is {shapes.min}, more than {MAX_MIN_PIXELS:,} pixels")
    return shapes


def read_pixel_formats(metadata: Metadata, where: str) -> tuple[PixelFormat, PixelFormat] | None:
    """The pixel formats of a generator's input and output; None of a file without them.

    Raises:
        UserError: They are damaged.
    """
    if metadata.get("images") is None:
        return None
    input, output = (from_dict(PixelFormat, metadata["images"][end], where=where) for end in ("in", "out"))
    return input, output


def check_direction(wanted: Direction | None, stored: Direction, path: Path | str) -> Direction:
    """Returns the direction that a file of one generator holds.

    Raises:
        UserError: Another one was asked for.
    """
    if wanted not in (None, stored):
        raise UserError(f"{path} translates {stored}, but {wanted} was asked for: give the file of that direction")
    return stored


def check_precision(wanted: Precision | None, stored: Precision, path: Path | str) -> None:
    """Refuses a file that computes in another precision than the one asked for.

    Raises:
        UserError: It does.
    """
    if wanted not in (None, stored):
        raise UserError(f"{path} computes in {stored}, but {wanted} was asked for: leave it out, or export that")


def engine_info(
    metadata: Metadata, *, name: str, device: str, precision: Precision | None = None, threads: int | None = None
) -> EngineInfo:
    """Builds an engine's info from the metadata of its file.

    Args:
        metadata: As `read_engine_metadata` returns it.
        name: Where the file came from.
        device: Where the engine runs.
        precision: If it differs from the file's.
        threads: CPU threads that a call computes on; None on a GPU.
    """
    formats = read_pixel_formats(metadata, name)
    if formats is None:  # written by 0.1
        channels = metadata["in_channels"], metadata["out_channels"]
        formats = PixelFormat(channels=channels[0]), PixelFormat(channels=channels[1])
    return EngineInfo(
        name=name,
        device=device,
        precision=precision or metadata.get("precision", "fp32"),
        direction=metadata["direction"],
        in_format=formats[0],
        out_format=formats[1],
        limits=ShapeLimits(
            size_divisor=metadata["size_divisor"], min_size=metadata["min_size"], shapes=read_shapes(metadata)
        ),
        threads=threads,
    )
