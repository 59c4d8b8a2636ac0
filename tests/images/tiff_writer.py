"""Writes TIFFs bit by bit, from the specification alone: what the tests compare the package's reading with."""

import struct
import zlib
from typing import Any, Literal

import numpy as np

Photometric = Literal["white", "black", "rgb", "palette", "cmyk", "ycbcr", "lab"]
Kind = Literal["unsigned", "signed", "float"]

PHOTOMETRICS = {"white": 0, "black": 1, "rgb": 2, "palette": 3, "cmyk": 5, "ycbcr": 6, "lab": 8}
EXTRAS = {"band": 0, "premultiplied": 1, "straight": 2}


def tiff(
    samples: np.ndarray,
    bits: int,
    photometric: Photometric,
    *,
    kind: Kind = "unsigned",
    extras: tuple[str, ...] = (),
    planar: bool = False,
    big_endian: bool = False,
    rows_per_strip: int | None = None,
    tile: int | None = None,
    deflate: bool = False,
    colours: np.ndarray | None = None,
    pages: int = 1,
    orientation: int | None = None,
) -> bytes:
    """The bytes of a TIFF of samples [H, W, C].

    Args:
        samples: Values below 2**bits, or signed ones, or floats.
        bits: Of a sample.
        photometric: What the first samples mean.
        kind: The sample format.
        extras: What the others mean.
        planar: Channel after channel.
        big_endian: Most significant byte first.
        rows_per_strip: Rows of a strip; all of them by default.
        tile: Side of square tiles instead of strips.
        deflate: Compresses.
        colours: Of a palette, uint16 [2**bits, 3].
        pages: The image that many times, of which only the first one has these values; the others are zeros.
        orientation: As in EXIF.
    """
    order = ">" if big_endian else "<"
    file, links = bytearray((b"MM" if big_endian else b"II") + struct.pack(order + "HI", 42, 0)), 4
    for page in range(pages):
        values = samples if page == 0 else np.zeros_like(samples)
        offsets, counts = [], []
        for segment in _segments(values, planar, rows_per_strip, tile):
            content = _packed(segment, bits, kind, order)
            content = zlib.compress(content) if deflate else content
            offsets.append(len(file))
            counts.append(len(content))
            file += content + bytes(len(content) % 2)
        height, width, channels = samples.shape
        tags: dict[int, tuple[str, Any]] = {
            256: ("I", [width]),
            257: ("I", [height]),
            258: ("H", [bits] * channels),
            259: ("H", [8 if deflate else 1]),
            262: ("H", [PHOTOMETRICS[photometric]]),
            277: ("H", [channels]),
            284: ("H", [2 if planar else 1]),
            339: ("H", [{"unsigned": 1, "signed": 2, "float": 3}[kind]] * channels),
        }
        if orientation is not None:
            tags[274] = "H", [orientation]
        if extras:
            tags[338] = "H", [EXTRAS[extra] for extra in extras]
        if colours is not None:
            tags[320] = "H", list(colours.T.ravel())
        if photometric == "ycbcr":
            tags[530] = "H", [1, 1]
        if tile is None:
            tags |= {273: ("I", offsets), 278: ("I", [rows_per_strip or height]), 279: ("I", counts)}
        else:
            tags |= {322: ("I", [tile]), 323: ("I", [tile]), 324: ("I", offsets), 325: ("I", counts)}
        links = append_directory(file, tags, order, links)
    return bytes(file)


def _segments(samples: np.ndarray, planar: bool, rows: int | None, tile: int | None) -> Any:
    """Yields the strips or tiles, [h, w, C] or [h, w, 1] each."""
    height, width, channels = samples.shape
    planes = [samples[..., c : c + 1] for c in range(channels)] if planar else [samples]
    for plane in planes:
        if tile is None:
            yield from (plane[top : top + (rows or height)] for top in range(0, height, rows or height))
            continue
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                some = plane[top : top + tile, left : left + tile]
                yield np.pad(some, ((0, tile - some.shape[0]), (0, tile - some.shape[1]), (0, 0)))


def _packed(samples: np.ndarray, bits: int, kind: Kind, order: str) -> bytes:
    """Rows that each begin with a byte of their own."""
    if kind == "float":
        return samples.astype(f"{order}f{bits // 8}").tobytes()
    if bits in (8, 16, 32, 64):
        return samples.astype(f"{order}{'u' if kind == 'unsigned' else 'i'}{bits // 8}").tobytes()
    return pack_bits(samples.reshape(len(samples), -1), bits).tobytes()


def pack_bits(rows: np.ndarray, bits: int) -> np.ndarray:
    """Samples [H, N] as bytes, uint8 [H, ...]: the most significant bit first, each row in bytes of its own."""
    each = rows.astype(np.int64)[..., None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(each.reshape(len(rows), -1).astype(np.uint8), axis=1)


def append_directory(file: bytearray, tags: dict[int, tuple[str, Any]], order: str, link: int) -> int:
    """Appends a directory, writes where it is at `link`, and returns where the next one's place belongs.

    Args:
        file: What it is appended to.
        tags: Type and values of each: "H", "I" and "d" numbers, "r" rationals, "s" text, "u" bytes.
        order: "<" or ">".
        link: Where its place belongs.
    """
    entries = b""
    for tag, (code, values) in sorted(tags.items()):
        kind, count, content = _value(code, values, order)
        if len(content) > 4:
            content, place = struct.pack(order + "I", len(file)), content
            file += place + bytes(len(place) % 2)
        entries += struct.pack(order + "HHI", tag, kind, count) + content.ljust(4, b"\0")
    struct.pack_into(order + "I", file, link, len(file))
    file += struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return len(file) - 4


def _value(code: str, values: Any, order: str) -> tuple[int, int, bytes]:
    """The number of a type, how many values there are, and their bytes."""
    if code in ("s", "u"):
        content = values.encode() + b"\0" if code == "s" else values
        return {"s": 2, "u": 7}[code], len(content), content
    if code == "r":
        numbers = [part for value in values for part in value]
        return 5, len(values), struct.pack(f"{order}{len(numbers)}I", *numbers)
    numbers = [*map(float if code == "d" else int, values)]
    return {"H": 3, "I": 4, "d": 12}[code], len(numbers), struct.pack(f"{order}{len(numbers)}{code}", *numbers)


def exif(
    tags: dict[int, tuple[str, Any]],
    *,
    inner: dict[int, dict[int, tuple[str, Any]]] | None = None,
    thumbnail: bytes = b"",
    big_endian: bool = False,
) -> bytes:
    """An EXIF block.

    Args:
        tags: Of its first directory, as for `append_directory`.
        inner: Of directories that a tag of the first leads to.
        thumbnail: A JPEG, for a second directory.
        big_endian: Most significant byte first.
    """
    order = ">" if big_endian else "<"
    block = bytearray((b"MM" if big_endian else b"II") + struct.pack(order + "HI", 42, 0))
    tags = dict(tags)
    for code, values in (inner or {}).items():
        block += bytes(4)  # for where it is
        append_directory(block, values, order, link := len(block) - 4)
        tags[code] = "I", struct.unpack_from(order + "I", block, link)
    link = append_directory(block, tags, order, 4)
    if thumbnail:
        place = len(block)
        block += thumbnail + bytes(len(thumbnail) % 2)
        append_directory(block, {259: ("H", [6]), 513: ("I", [place]), 514: ("I", [len(thumbnail)])}, order, link)
    return bytes(block)
