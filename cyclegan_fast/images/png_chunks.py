"""The chunks of PNGs, and those files that Pillow refuses for their metadata.

It takes no more text or profile than it decompresses, as it guards against texts that are made to fill the memory
(scenes of renderers, histories of editors), and no chunk whose check sum is wrong. The pixels need none of it, so it is
left out before Pillow sees the file.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT, MAX_TEXTS = 2**19, 2**24  # bytes of a chunk, and of all together, decompressed; far below Pillow's limits
_SMALL = 400  # bytes that never decompress to more than MAX_TEXT
_PIXELS = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}  # transparency and frames, though their names are those of metadata


def without_bad_metadata(file: BinaryIO) -> BinaryIO:
    """The same file, at its start; or a copy in memory, without chunks of metadata that Pillow would refuse."""
    file.seek(0)
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        file.seek(0)
        return file
    total, dropped = 0, list[tuple[int, int]]()
    for start, length, kind in chunks(file):
        if not _is_metadata(kind):
            continue
        size = MAX_TEXT + 1
        if length <= MAX_TEXTS:
            file.seek(start + 8)
            body, check = file.read(length), file.read(4)
            size = text_size(kind, body) if zlib.crc32(kind + body) == int.from_bytes(check, "big") else size
        if size > MAX_TEXT or total + size > MAX_TEXTS:
            dropped.append((start, start + 12 + length))
        else:
            total += size
    file.seek(0)
    return _without(file, dropped) if dropped else file


def chunks(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Yields where each chunk starts, the length of its body, and its kind; damaged files end early."""
    start = len(_SIGNATURE)
    while True:
        file.seek(start)
        header = file.read(8)
        if len(header) < 8:
            return
        length, kind = struct.unpack(">I4s", header)
        yield start, length, kind
        start += 12 + length


def _is_metadata(kind: bytes) -> bool:
    """Whether readers may leave a chunk out, as its first letter, a small one, says."""
    return kind.isalpha() and kind[:1].islower() and kind not in _PIXELS


def text_size(kind: bytes, body: bytes) -> int:
    """Bytes of a chunk's text as Pillow would hold it, or more than MAX_TEXT."""
    if kind not in (b"zTXt", b"iTXt", b"iCCP") or len(body) <= _SMALL:
        return len(body)
    if kind == b"iTXt":
        _, _, rest = body.partition(b"\0")  # keyword, flag, method, language, translated keyword, text
        if rest[:1] != b"\1":
            return len(body)
        packed = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        packed = body.partition(b"\0")[2][1:]  # keyword, method, text
    try:
        return len(zlib.decompressobj().decompress(packed, MAX_TEXT + 1))
    except zlib.error:
        return len(body)  # Pillow judges it


def _without(file: BinaryIO, dropped: list[tuple[int, int]]) -> BinaryIO:
    content, position, parts = file.read(), 0, []
    file.close()
    for start, end in dropped:
        parts.append(content[position:start])
        position = end
    return io.BytesIO(b"".join([*parts, content[position:]]))
