"""What travels with an exported generator, as JSON: beside its file, in the file's own header, or both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cyclegan_fast.config import PixelFormat, from_dict
from cyclegan_fast.engine.info import PRECISIONS, EngineInfo, Precision
from cyclegan_fast.engine.shapes import ShapeLimits, Shapes
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import Direction

METADATA_KEY = "cyclegan_fast"
"""Under which a .safetensors or .onnx file has it in its header."""
FORMAT_VERSION = 1
DEFAULT_SIZE_DIVISOR, DEFAULT_MIN_SIZE = 4, 8
"""Of files without metadata: those of the residual generators."""

Metadata = dict[str, Any]
_RENAMED = {"multiple": "size_divisor", "smallest": "min_size"}  # keys as 0.1 wrote them


def read_metadata(content: str | bytes, path: Path | str) -> Metadata:
    """Reads what was written about the generator of the file `path`.

    Raises:
        UserError: A newer version wrote it.
        ValueError, KeyError, TypeError: It is damaged.
    """
    metadata = json.loads(content)
    if metadata["format"] > FORMAT_VERSION:
        raise UserError(f"{path} was exported by a newer cyclegan_fast: upgrade the package")
    if metadata["direction"] not in ("AtoB", "BtoA"):
        raise ValueError(f"the direction is {metadata['direction']!r}")
    return metadata


def read_engine_metadata(content: str | bytes, path: Path | str) -> Metadata:
    """The same of an engine file, with all that an engine must know of itself.

    Raises:
        UserError: A newer version wrote it.
        ValueError, KeyError, TypeError, AttributeError: It is damaged.
    """
    metadata = read_metadata(content, path)
    for old, new in _RENAMED.items():
        metadata.setdefault(new, metadata.pop(old, None))
    for key in ("size_divisor", "min_size"):
        if type(metadata[key]) is not int or metadata[key] < 1:
            raise ValueError(f"{key} is {metadata[key]!r}, not a number of pixels")
    if metadata.get("precision", "fp32") not in PRECISIONS:
        raise ValueError(f"the precision is {metadata['precision']!r}")
    read_shapes(metadata)
    read_pixel_formats(metadata, str(path))
    return metadata


def read_shapes(metadata: Metadata) -> Shapes | None:
    """The shapes that a file was built for; None of a file that takes all.

    Raises:
        ValueError, KeyError, TypeError: They are damaged.
    """
    if metadata.get("shapes") is None:
        return None
    ends = []
    for end in Shapes._fields:
        shape = tuple(metadata["shapes"][end])
        if len(shape) != 3 or any(type(number) is not int or number < 1 for number in shape):
            raise ValueError(f"the shapes' {end} is {shape}")
        ends.append(shape)
    return Shapes(*ends)


def read_pixel_formats(metadata: Metadata, where: str) -> tuple[PixelFormat, PixelFormat] | None:
    """The pixel formats of a generator's input and output; None of a file without them.

    Raises:
        UserError, KeyError, TypeError: They are damaged.
    """
    if "images" not in metadata:
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
