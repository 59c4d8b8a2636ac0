"""The sidecar of an engine file: what the file is, where it runs, and the digest that proves that it is that file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from torch import nn

from cyclegan_fast.checkpoint.weights import read_weights
from cyclegan_fast.documents import DocumentError, check, read_limited
from cyclegan_fast.engine.metadata import Metadata, check_direction, read_engine_metadata
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.metrics import Direction


def sidecar_of(path: Path) -> Path:
    """horse2zebra.onnx -> horse2zebra.onnx.json."""
    return path.with_name(f"{path.name}.json")


def make_sidecar(content: bytes, metadata: Metadata) -> bytes:
    """The sidecar's content for an engine file's."""
    return (json.dumps(metadata | {"sha256": hashlib.sha256(content).hexdigest()}, indent=1) + "\n").encode()


def weights_digest(network: nn.Module) -> str:
    """A sha256 over the names and values of all weights, whatever file they are in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(read_weights(network).items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def read_sidecar(path: Path, content: bytes, direction: Direction | None = None) -> Metadata:
    """The metadata of an engine file whose bytes are `content`; empty if there is no sidecar.

    Raises:
        UserError: The sidecar is damaged, of a newer version, or not that of these bytes; or the file holds another
            direction than the one asked for.
    """
    sidecar = sidecar_of(path)
    if not sidecar.exists():
        return {}
    try:
        metadata = read_engine_metadata(read_limited(sidecar), path)
        check(metadata, {"sha256": str})
    except (DocumentError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        rebuild = how_to_rebuild(path, {"direction": direction})
        raise UserError(f"{sidecar} is damaged ({reason}); {rebuild}") from error
    if hashlib.sha256(content).hexdigest() != metadata["sha256"]:
        raise UserError(
            f"{path} is not the file that was exported: its sha256 differs from {sidecar.name}; "
            f"{how_to_rebuild(path, metadata)}"
        )
    check_direction(direction, metadata["direction"], path)
    return metadata


def read_required_sidecar(path: Path, content: bytes, direction: Direction | None = None) -> Metadata:
    """The metadata of a file that holds machine code, which is run only if its sidecar describes these very bytes.

    Raises:
        UserError: As `read_sidecar` does; or there is no sidecar, or it is that of another kind of file.
    """
    metadata = read_sidecar(path, content, direction)
    if not metadata:
        raise MissingFileError(
            f"{sidecar_of(path)} is missing, and {path.name} holds machine code, which is not run unless that file "
            f"describes it: put it there, or {how_to_rebuild(path, {'direction': direction})}"
        )
    complete = all(metadata.get(key) is not None for key in ("precision", "images", "shapes"))
    compiled = metadata.get("compiled")
    if not complete or compiled is None or not isinstance(compiled.get("device"), str):
        raise UserError(
            f"{sidecar_of(path).name} is not the sidecar of a {path.suffix} file; {how_to_rebuild(path, metadata)}"
        )
    return metadata


def how_to_rebuild(path: Path | str, metadata: Metadata | None = None) -> str:
    """The command that builds such a file again, as far as its flags are known; others are words in capitals."""
    known = metadata or {}
    words = [f"--out {path} --direction {known.get('direction') or 'DIRECTION'}"]
    if precision := known.get("precision"):
        words.append(f"--precision {precision}")
    compiled = known.get("compiled")
    if isinstance(compiled, dict) and compiled.get("flavour") == "rtx":
        words.append("--tensorrt rtx")
        if isinstance(capabilities := compiled.get("compute_capabilities"), list):
            words.append(f"--compute-capabilities {' '.join(map(str, capabilities))}")
    return f"export it again: python -m cyclegan_fast.export --checkpoint RUN {' '.join(words)}"
