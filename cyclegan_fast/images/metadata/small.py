"""Metadata of BMPs and GIFs, which hold little."""

from __future__ import annotations

import struct
from typing import BinaryIO

from cyclegan_fast.images.metadata.exif import PRIVATE
from cyclegan_fast.images.metadata.model import Metadata, checked_resolution, note

_BMP_RESOLUTION = 38  # where it lies in the header: pixels for a metre
_BMP_HEADER = 54
_COMMENT, _APPLICATION, _MAX_COMMENT = 0xFE, 0xFF, 2**16
_MAX_EXTENSIONS = 1000
_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")


def read_bmp(file: BinaryIO, metadata: Metadata) -> None:
    """Reads the resolution of a BMP."""
    file.seek(14)
    head = file.read(_BMP_HEADER - 14)
    (size,) = struct.unpack("<I", head[:4])
    if size >= 40:
        x, y = struct.unpack("<ii", head[_BMP_RESOLUTION - 14 : _BMP_RESOLUTION - 6])
        metadata.resolution = checked_resolution(x / 100, y / 100, "cm")
    if size >= 124:
        file.seek(14 + 56)
        if file.read(4) in (b"DEBM", b"KNIL"):  # a profile in the file, or beside it
            note(metadata.lost, "the colour profile of a BMP, which is not read")


def write_bmp(content: bytes, metadata: Metadata) -> bytes:
    """Puts the resolution into an encoded BMP."""
    if not metadata.resolution:
        return content
    numbers = [round(value) for value in metadata.resolution.per("m")]
    if not all(0 < number < 2**31 for number in numbers):
        note(metadata.lost, "a resolution that BMP cannot hold")
        return content
    density = struct.pack("<ii", *numbers)
    return content[:_BMP_RESOLUTION] + density + content[_BMP_RESOLUTION + 8 :]


def read_gif(file: BinaryIO, metadata: Metadata) -> None:
    """Reads the comment of a GIF, of what lies before its first image."""
    file.seek(_behind_palette(file.read(13)))
    for _ in range(_MAX_EXTENSIONS):
        if file.read(1) != b"\x21":
            return
        (label,) = file.read(1)
        content = _blocks(file)
        if label == _COMMENT and not metadata.comment:
            metadata.comment = content
        elif label == _APPLICATION and not content.startswith(_LOOPS):
            note(metadata.by_rule, PRIVATE)


def write_gif(content: bytes, metadata: Metadata) -> bytes:
    """Puts a comment into an encoded GIF."""
    if not metadata.comment:
        return content
    parts = [metadata.comment[start : start + 255] for start in range(0, len(metadata.comment), 255)]
    blocks = b"".join(bytes((len(part),)) + part for part in parts)
    start = _behind_palette(content[:13])
    return b"GIF89a" + content[6:start] + b"\x21\xfe" + blocks + b"\0" + content[start:]


def _behind_palette(head: bytes) -> int:
    """Where the first block of a GIF lies, by its first 13 bytes."""
    return 13 + (3 << (head[10] & 7) + 1 if head[10] & 0x80 else 0)


def _blocks(file: BinaryIO) -> bytes:
    """The sub-blocks of an extension together."""
    content = b""
    while size := ord(file.read(1)):
        content += file.read(size)
        if len(content) > _MAX_COMMENT:
            raise ValueError("too large")
    return content
