"""Sound files with a few changes, as hypothesis draws and shrinks them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    2**32 - 1,
)
_HEAD = 256  # bytes, which half of the changes meet: headers lie there
_MAX_BYTES = 2**20  # of a changed file

Change = tuple[str, int, int]
Repair = Callable[[bytes], bytes]


def flip(content: bytearray, at: int, value: int) -> None:
    """Turns one bit around."""
    content[at] ^= 1 << value % 8


def put_byte(content: bytearray, at: int, value: int) -> None:
    """Another byte."""
    content[at] = value % 256


def put_number(content: bytearray, at: int, value: int) -> None:
    """A number at which sizes and offsets go wrong, of 2, 4 or 8 bytes, in either order."""
    number = _NUMBERS[value % len(_NUMBERS)]
    kind = ("<H", ">H", "<I", ">I", "<Q", ">Q")[value // len(_NUMBERS) % 6]
    packed = struct.pack(kind, number & (2 ** (8 * struct.calcsize(kind)) - 1))
    content[at : at + len(packed)] = packed


def truncate(content: bytearray, at: int, value: int) -> None:
    """Ends the file here."""
    del content[at:]


def cut(content: bytearray, at: int, value: int) -> None:
    """Leaves some bytes out."""
    del content[at : at + 1 + value % 1024]


def repeat(content: bytearray, at: int, value: int) -> None:
    """Doubles some bytes, up to many times."""
    some = bytes(content[at : at + 1 + value % 64])
    content[at:at] = some * (1 + value // 64 % 512)


def clear(content: bytearray, at: int, value: int) -> None:
    """Zeros, as a file system leaves them after a crash."""
    size = len(content[at : at + 1 + value % 4096])
    content[at : at + size] = bytes(size)


def digits(content: bytearray, at: int, value: int) -> None:
    """A number as text, of which formats with text headers have their sizes."""
    content[at:at] = str(10 ** (value % 40) - 1 + value % 2).encode()


_CHANGES: dict[str, Callable[[bytearray, int, int], None]] = {
    change.__name__: change for change in (flip, put_byte, put_number, truncate, cut, repeat, clear, digits)
}


def changes() -> st.SearchStrategy[list[Change]]:
    """One to eight changes: what, where, how."""
    one = st.tuples(st.sampled_from([*_CHANGES, "splice"]), st.integers(0, 2**20), st.integers(0, 2**20))
    return st.lists(one, min_size=1, max_size=8)


def changed(seeds: Sequence[bytes], seed: int, wanted: Sequence[Change]) -> bytes:
    """One of the seeds with these changes; a splice goes on as another seed does."""
    content = bytearray(seeds[seed % len(seeds)])
    for kind, where, value in wanted:
        if not content:
            break
        at = where // 2 % (min(len(content), _HEAD) if where % 2 else len(content))
        if kind == "splice":
            other = seeds[value % len(seeds)]
            content[at:] = other[value // len(seeds) % max(len(other), 1) :]
        else:
            _CHANGES[kind](content, at, value)
    return bytes(content[:_MAX_BYTES])


def with_png_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums of their bytes, so that a change reaches what is behind the check."""
    parts, at = [content[:8]], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        body = content[at + 4 : at + 8 + length]
        if len(body) < 4 + length or at + 12 + length > len(content):
            break
        parts.append(content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join([*parts, content[at:]])


def with_tar_checksums(content: bytes) -> bytes:
    """A tar whose header blocks have the checksums of their bytes."""
    blocks = bytearray(content)
    for at in range(0, len(blocks) - 511, 512):
        if blocks[at + 257 : at + 262] == b"ustar":
            blocks[at + 148 : at + 156] = b" " * 8
            blocks[at + 148 : at + 156] = b"%06o\0 " % sum(blocks[at : at + 512])
    return bytes(blocks)
