"""Metadata of JPEGs: segments before the coded image."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Literal

from cyclegan_fast.images.metadata.exif import PRIVATE, exif_of, read_block
from cyclegan_fast.images.metadata.model import Metadata, Resolution, checked_resolution, note

_SOI, _SOS, _APP0, _APP1, _APP2, _APP13, _APP14, _COMMENT = 0xD8, 0xDA, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE
_JFIF, _EXIF, _PROFILE, _PHOTOSHOP = b"JFIF\0", b"Exif\0\0", b"ICC_PROFILE\0", b"Photoshop 3.0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_IPTC = 0x0404  # a resource of Photoshop
_UNITS: dict[int, Literal["", "inch", "cm"]] = {1: "inch", 2: "cm"}  # of JFIF; others know a ratio only
_MAX_SEGMENTS = 4096
_ROOM = 65533  # bytes of a segment's content
_MAX_PARTS = 255  # segments of a profile, which are numbered by a byte, or of EXIF


def read_jpeg(file: BinaryIO, metadata: Metadata) -> None:
    """Reads the metadata of the first image in a file."""
    parts: dict[int, bytes] = {}  # of the profile
    exif: list[bytes] = []  # which may need several segments
    for kind, content in _segments(file):
        if kind == _APP0 and content.startswith(_JFIF) and len(content) >= 12:
            unit, x, y = struct.unpack(">BHH", content[7:12])
            metadata.resolution = checked_resolution(x, y, _UNITS.get(unit, ""))
        elif kind == _APP1 and content.startswith(_EXIF) and len(exif) < _MAX_PARTS:
            exif.append(content[len(_EXIF) :])
        elif kind == _APP1 and content.startswith(_XMP):
            metadata.xmp = content[len(_XMP) :]
        elif kind == _APP2 and content.startswith(_PROFILE) and len(content) > len(_PROFILE) + 1:
            parts[content[len(_PROFILE)]] = content[len(_PROFILE) + 2 :]
        elif kind == _APP13 and content.startswith(_PHOTOSHOP):
            metadata.iptc = metadata.iptc or _iptc_of(content[len(_PHOTOSHOP) :])
        elif kind == _COMMENT:
            metadata.comment = content
        elif _APP0 < kind <= _APP0 + 15 and kind != _APP14:
            note(metadata.by_rule, PRIVATE)
    metadata.profile = b"".join(parts[number] for number in sorted(parts))
    if exif:
        read_block(b"".join(exif), metadata)


def write_jpeg(content: bytes, metadata: Metadata) -> bytes:
    """Puts metadata into an encoded JPEG."""
    density = _density(metadata.resolution) if metadata.resolution else b""
    segments = [
        (_APP1, _EXIF, exif_of(metadata, for_resolution=not density)),
        (_APP1, _XMP, metadata.xmp),
        (_APP13, _PHOTOSHOP, _resource(metadata.iptc)),
        (_COMMENT, b"", metadata.comment),
    ]
    written = b""
    for kind, name, segment in segments:
        if len(name + segment) > _ROOM:
            note(metadata.lost, "EXIF, XMP, IPTC or a comment of more than 64 kB, which JPEG cannot hold")
        elif segment:
            written += _segment(kind, name + segment)
    step = _ROOM - len(_PROFILE) - 2
    parts = [metadata.profile[start : start + step] for start in range(0, len(metadata.profile), step)]
    if len(parts) > _MAX_PARTS:
        note(metadata.lost, "a colour profile of more than 16 MB, which JPEG cannot hold")
        parts = []
    for number, part in enumerate(parts, 1):
        written += _segment(_APP2, _PROFILE + bytes((number, len(parts))) + part)
    start = 4 + struct.unpack(">H", content[4:6])[0] if content[3] == _APP0 else 2  # behind the segment of JFIF
    head = content[:start]
    if density and len(head) >= 18:  # the segment of JFIF
        head = head[:13] + density + head[18:]
    return head + written + content[start:]


def _segment(kind: int, content: bytes) -> bytes:
    return b"\xff" + struct.pack(">BH", kind, len(content) + 2) + content


def _resource(iptc: bytes) -> bytes:
    """IPTC as a resource of Photoshop."""
    return b"8BIM" + struct.pack(">HHI", _IPTC, 0, len(iptc)) + iptc + bytes(len(iptc) % 2) if iptc else b""


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields kind and content of the segments before the coded image.

    Raises:
        ValueError: They do not follow each other as they should.
    """
    file.seek(2)
    for _ in range(_MAX_SEGMENTS):
        mark = file.read(2)
        while mark == b"\xff\xff":  # which fills
            mark = mark[1:] + file.read(1)
        if len(mark) < 2 or mark[0] != 0xFF:
            raise ValueError("no segment")
        if mark[1] == _SOS:
            return
        (length,) = struct.unpack(">H", file.read(2))
        if _APP0 <= mark[1] < _APP0 + 16 or mark[1] == _COMMENT:
            yield mark[1], file.read(max(length - 2, 0))
        else:
            file.seek(max(length - 2, 0), 1)
    raise ValueError("too many segments")


def _density(resolution: Resolution) -> bytes:
    """A resolution as JFIF holds it, in 16-bit numbers; empty where that is EXIF's to hold."""
    unit, (x, y) = min(_in_units(resolution), key=lambda found: _rounding(*found[1]))
    numbers = round(x), round(y)
    if not all(0 < number < 2**16 for number in numbers) or (unit == 0 and numbers != (x, y)):
        return b""
    return struct.pack(">BHH", unit, *numbers)


def _in_units(resolution: Resolution) -> list[tuple[int, tuple[float, float]]]:
    """A resolution in the units of JFIF, which knows whole numbers only."""
    if not resolution.unit:
        return [(0, resolution[:2])]
    return [(1, resolution.per("inch")), (2, resolution.per("cm"))]


def _rounding(x: float, y: float) -> float:
    """How much of two numbers is lost by rounding."""
    return abs(x - round(x)) / x + abs(y - round(y)) / y


def _iptc_of(resources: bytes) -> bytes:
    """IPTC among the resources of Photoshop."""
    at = 0
    while resources[at : at + 4] == b"8BIM" and len(resources) >= at + 12:
        (kind,) = struct.unpack(">H", resources[at + 4 : at + 6])
        start = at + 6 + (resources[at + 6] + 2) // 2 * 2  # behind a name of even length with its length
        if len(resources) < start + 4:
            break
        (size,) = struct.unpack(">I", resources[start : start + 4])
        if kind == _IPTC:
            return resources[start + 4 : start + 4 + size]
        at = start + 4 + (size + 1) // 2 * 2
    return b""
