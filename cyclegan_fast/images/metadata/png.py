"""Metadata of PNGs: chunks beside those of the pixels."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from cyclegan_fast.images.metadata.exif import PRIVATE, exif_of, read_block
from cyclegan_fast.images.metadata.model import Metadata, Resolution, checked_resolution, note
from cyclegan_fast.images.metadata.tags import MAX_BYTES
from cyclegan_fast.images.png_chunks import MAX_TEXT, MAX_TEXTS, chunks, text_size

_HEADER_END = 33  # bytes of the signature and the header, behind which chunks of metadata may lie
_COLOUR = (b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI")
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"bKGD", b"hIST", b"sPLT", b"sBIT", b"tIME"}
_PIXELS |= {b"acTL", b"fcTL", b"fdAT"}
_XMP, _RAW = b"XML:com.adobe.xmp", b"Raw profile type "
_MAX_COLOUR = 32  # bytes of the largest of its chunks, cHRM
_MAX_PROFILE = 2**20  # bytes that Pillow decompresses


def read_png(file: BinaryIO, metadata: Metadata) -> None:
    """Reads the chunks of a PNG, those behind the pixels, too."""
    for start, length, kind in chunks(file):
        if kind == b"IHDR":
            file.seek(start + 17)
            metadata.is_grey = file.read(1) in (b"\0", b"\4")
        if kind in _PIXELS:
            continue
        name = f"chunk {kind.decode('latin-1')} of a PNG"
        if length > MAX_TEXTS:
            note(metadata.lost, f"{name}: too large")
            continue
        file.seek(start + 8)
        body, check = file.read(length), file.read(4)
        try:
            if zlib.crc32(kind + body) != int.from_bytes(check, "big"):
                raise ValueError("its check sum")
            _take(kind, body, metadata)
        except (ValueError, struct.error):
            note(metadata.lost, f"{name}: damaged")


def _take(kind: bytes, body: bytes, metadata: Metadata) -> None:
    if kind == b"pHYs":
        x, y, unit = struct.unpack(">IIB", body)
        scale = 100.0 if unit == 1 else 1.0  # from metres
        found = checked_resolution(x / scale, y / scale, "cm" if unit == 1 else "")
        metadata.resolution = found if found and (found.unit or not metadata.resolution) else metadata.resolution
    elif kind == b"iCCP":
        metadata.profile = _inflated(body.partition(b"\0")[2][1:])
    elif kind in _COLOUR:
        if len(body) > _MAX_COLOUR:
            raise ValueError("too large")
        metadata.colour_chunks[kind] = body
    elif kind == b"eXIf":
        read_block(body, metadata)
    elif kind in _TEXT:
        _take_text(kind, body, metadata)
    else:
        note(metadata.by_rule, PRIVATE)


def write_png(content: bytes, metadata: Metadata) -> bytes:
    """Puts metadata into an encoded PNG."""
    written = [*metadata.colour_chunks.items()]
    if len(metadata.profile) > _MAX_PROFILE:
        note(metadata.lost, "a colour profile of more than 1 MB, which readers refuse in a PNG")
    elif metadata.profile:
        written.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.profile)))
    density = _density(metadata.resolution) if metadata.resolution else b""
    if density:
        written.append((b"pHYs", density))
    if exif := exif_of(metadata, for_resolution=not density):
        written.append((b"eXIf", exif))
    if metadata.xmp:
        written.append((b"iTXt", _XMP + b"\0\0\0\0\0" + metadata.xmp))
    packed = b"".join(_chunk(kind, body) for kind, body in [*written, *metadata.texts])
    return content[:_HEADER_END] + packed + content[_HEADER_END:]


def _density(resolution: Resolution) -> bytes:
    """A resolution as pHYs holds it, in whole numbers; empty where that is EXIF's to hold."""
    x, y = resolution.per("m") if resolution.unit else resolution[:2]
    numbers = round(x), round(y)
    if not all(0 < number < 2**31 for number in numbers) or (not resolution.unit and numbers != (x, y)):
        return b""
    return struct.pack(">IIB", *numbers, bool(resolution.unit))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _take_text(kind: bytes, body: bytes, metadata: Metadata) -> None:
    keyword, _, rest = body.partition(b"\0")
    if keyword == _XMP and kind == b"iTXt":
        text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        metadata.xmp = _inflated(text) if rest[:1] == b"\1" else text
    elif keyword in (_RAW + b"exif", _RAW + b"APP1"):
        _take_raw_exif(_inflated(rest[1:]) if kind == b"zTXt" else rest, metadata)
    elif keyword.startswith(_RAW):
        note(metadata.by_rule, PRIVATE)
    elif (size := text_size(kind, body)) > MAX_TEXT or size + metadata.text_size > MAX_TEXTS:
        note(metadata.lost, f"chunk {kind.decode()} of a PNG: too large")
    else:
        metadata.texts.append((kind, body))
        metadata.text_size += size


def _take_raw_exif(text: bytes, metadata: Metadata) -> None:
    """EXIF as hexadecimal text, as older programs wrote it."""
    block = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    if block.startswith(b"Exif\0\0") and not metadata.directory:
        read_block(block, metadata)


def _inflated(packed: bytes) -> bytes:
    """Decompresses up to `MAX_BYTES`.

    Raises:
        ValueError: There is more of it, or it is damaged.
    """
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(packed, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if inflater.unconsumed_tail:
        raise ValueError("too large")
    return content
