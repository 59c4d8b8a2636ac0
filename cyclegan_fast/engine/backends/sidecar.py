"""The sidecar of an engine file: what the file is, where it runs, and the digest that proves that it is that file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from cyclegan_fast.checkpoint.weights import read_weights
from cyclegan_fast.config import PixelFormat
from cyclegan_fast.engine.engine import PRECISIONS, Precision, Shapes
from cyclegan_fast.engine.generator import check_direction, read_facts, read_pixel_formats
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import Direction

# A file without a sidecar does not say these; they are those of the residual generators.
_RENAMED = {"multiple": "size_divisor", "smallest": "min_size"}  # keys as 0.1 wrote them
_DEFAULT_MULTIPLE, _DEFAULT_SMALLEST = 4, 8


def sidecar_of(path: Path) -> Path:
    """horse2zebra.onnx -> horse2zebra.onnx.json."""
    return path.with_name(f"{path.name}.json")


def make_sidecar(content: bytes, metadata: dict[str, Any]) -> bytes:
    """The sidecar's content for an engine file's."""
    return (json.dumps(metadata | {"sha256": hashlib.sha256(content).hexdigest()}, indent=1) + "\n").encode()


def weights_digest(network: nn.Module) -> str:
    """A sha256 over the names and values of all weights, whatever file they are in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(read_weights(network).items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def read_sidecar(path: Path, content: bytes, direction: Direction | None = None) -> dict[str, Any]:
    """Facts about an engine file whose bytes are `content`; empty if there is no sidecar.

    Raises:
        UserError: The sidecar is damaged, of a newer version, or not that of these bytes; or the file holds another
            direction than the one asked for.
    """
    sidecar = sidecar_of(path)
    if not sidecar.exists():
        return {}
    try:
        metadata = read_facts(sidecar.read_bytes(), path)
        for old, new in _RENAMED.items():
            metadata.setdefault(new, metadata.pop(old, None))
        expected = metadata["sha256"]
        for key in ("size_divisor", "min_size"):
            if type(metadata[key]) is not int or metadata[key] < 1:
                raise ValueError(f"{key} is {metadata[key]!r}, not a number of pixels")
        if metadata.get("precision", "fp32") not in PRECISIONS:
            raise ValueError(f"the precision is {metadata['precision']!r}")
        read_shapes(metadata)
        read_pixel_formats(metadata, str(sidecar))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{sidecar} is damaged; {how_to_rebuild(path)}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise UserError(
            f"{path} is not the file that was exported: its sha256 differs from {sidecar.name}; {how_to_rebuild(path)}"
        )
    check_direction(direction, metadata["direction"], path)
    return metadata


def read_required_sidecar(path: Path, content: bytes, direction: Direction | None = None) -> dict[str, Any]:
    """The same for a file that holds machine code, and is run only if it is the one that its sidecar tells of.

    Raises:
        UserError: There is none, too, or it is that of another kind of file.
    """
    metadata = read_sidecar(path, content, direction)
    if not metadata:
        raise UserError(
            f"{sidecar_of(path)} is missing, and {path.name} holds machine code, which is not run unless that file "
            f"tells what it is: put it there, or {how_to_rebuild(path)}"
        )
    told = all(metadata.get(key) is not None for key in ("precision", "images", "shapes"))
    if not told or not isinstance(metadata.get("compiled"), dict):
        raise UserError(f"{sidecar_of(path).name} is not the sidecar of a {path.suffix} file; {how_to_rebuild(path)}")
    return metadata


def check_precision(wanted: Precision | None, metadata: dict[str, Any], path: Path) -> None:
    """Refuses a file that computes in another precision than the one asked for."""
    stored = metadata.get("precision", "fp32")
    if wanted not in (None, stored):
        raise UserError(f"{path} computes in {stored}, but {wanted} was asked for: leave it out, or export that")


def read_shapes(metadata: dict[str, Any]) -> Shapes | None:
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


def engine_fields(metadata: dict[str, Any], channels: tuple[int, int], where: str) -> dict[str, Any]:
    """What an `Engine` is told of itself: by its sidecar, or where there is none, by the channels of its graph."""
    taken, made = read_pixel_formats(metadata, where) or (
        PixelFormat(channels=channels[0]),
        PixelFormat(channels=channels[1]),
    )
    return {
        "direction": metadata.get("direction"),
        "in_format": taken,
        "out_format": made,
        "size_divisor": metadata.get("size_divisor", _DEFAULT_MULTIPLE),
        "min_size": metadata.get("min_size", _DEFAULT_SMALLEST),
        "shapes": read_shapes(metadata),
    }


def how_to_rebuild(path: Path, metadata: dict[str, Any] | None = None) -> str:
    """The command that makes such a file anew, as far as it is known how it was made."""
    words = [f"--out {path}"]
    for flag in ("direction", "precision"):
        if value := (metadata or {}).get(flag):
            words.append(f"--{flag} {value}")
    return f"export it again: python -m cyclegan_fast.export --checkpoint RUN {' '.join(words)}"
