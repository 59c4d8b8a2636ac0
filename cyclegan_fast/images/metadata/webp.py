"""Metadata of WebPs: chunks of RIFF."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from cyclegan_fast.images.metadata.exif import exif_of, read_block
from cyclegan_fast.images.metadata.model import Change, Metadata, note
from cyclegan_fast.images.metadata.tags import MAX_BYTES

_HAS_PROFILE, _HAS_ALPHA, _HAS_EXIF, _HAS_XMP = 0x20, 0x10, 0x08, 0x04
_KINDS = (b"ICCP", b"EXIF", b"XMP ")
_MAX_CHUNKS = 10**5  # of animations


def read_webp(file: BinaryIO, metadata: Metadata) -> None:
    """Reads the chunks of a WebP."""
    file.seek(12)
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        kind, size = struct.unpack("<4sI", head)
        if kind not in _KINDS or size > MAX_BYTES:
            if kind in _KINDS:
                note(metadata.lost, f"chunk {kind.decode().strip()} of a WebP: too large")
            file.seek(size + size % 2, 1)
            continue
        body = file.read(size + size % 2)[:size]
        if len(body) < size:
            raise ValueError("cut off")
        if kind == b"ICCP":
            metadata.profile = body
        elif kind == b"EXIF":
            read_block(body, metadata)
        else:
            metadata.xmp = body


def write_webp(content: bytes, metadata: Metadata, change: Change) -> bytes:
    """Puts metadata into an encoded WebP of one frame."""
    exif = exif_of(metadata, for_resolution=True)
    if not (metadata.profile or exif or metadata.xmp):
        return content
    chunks = [(kind, body) for kind, body in _chunks(content) if kind != b"VP8X"]
    flags = (
        _HAS_PROFILE * bool(metadata.profile) | _HAS_EXIF * bool(exif) | _HAS_XMP * bool(metadata.xmp)
    ) | _HAS_ALPHA * (change.channels in (2, 4))
    width, height = change.output_size
    extended = struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    front = [(b"VP8X", extended), (b"ICCP", metadata.profile)]
    behind = [(b"EXIF", exif), (b"XMP ", metadata.xmp)]
    written = b"".join(_chunk(kind, body) for kind, body in [*front, *chunks, *behind] if body)
    return b"RIFF" + struct.pack("<I", len(written) + 4) + b"WEBP" + written


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(content):
        kind, size = struct.unpack("<4sI", content[at : at + 8])
        yield kind, content[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
