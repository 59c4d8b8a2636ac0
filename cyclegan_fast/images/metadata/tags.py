"""Directories of tags, which TIFFs and EXIF blocks alike are made of: read within limits, packed, added to a file.

A value keeps its type and the bytes that it has in its file, so that what is carried over stays exactly as it was.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

Order = Literal["<", ">"]
BYTES, TEXT, SHORT, LONG, RATIONAL, UNDEFINED, FLOAT, DOUBLE, LONG8 = 1, 2, 3, 4, 5, 7, 11, 12, 16  # types of values
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WORDS = _SIZES | {5: 4, 10: 4}  # bytes that are swapped together
_ARRAYS = {1: "u1", 3: "u2", 4: "u4", 8: "i2", 9: "i4", 11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}
_MAX_ENTRIES = 1000  # of a directory
MAX_BYTES = 2**24  # of the values of a file


class Tag(NamedTuple):
    """A value of a directory."""

    kind: int
    """Its type, by the specification's number."""
    data: bytes
    """In the byte order of its file."""

    @property
    def length(self) -> int:
        """How many numbers, or bytes of text, it has."""
        return len(self.data) // _SIZES[self.kind]

    def in_order(self, order: Order, wanted: Order) -> Tag:
        """The same in another byte order."""
        if order == wanted or _WORDS[self.kind] == 1:
            return self
        return Tag(self.kind, np.frombuffer(self.data, f"<u{_WORDS[self.kind]}").byteswap().tobytes())

    def numbers(self, order: Order) -> list[float]:
        """Its numbers, rationals as quotients; none for text.

        Raises:
            ZeroDivisionError: A rational has the denominator 0.
        """
        if self.kind in (5, 10):
            parts = np.frombuffer(self.data, f"{order}{'u' if self.kind == RATIONAL else 'i'}4").tolist()
            return [above / below for above, below in zip(parts[::2], parts[1::2], strict=True)]
        return np.frombuffer(self.data, order + _ARRAYS[self.kind]).tolist() if self.kind in _ARRAYS else []

    @property
    def text(self) -> str:
        """Its text, without the zero at the end."""
        return self.data.rstrip(b"\0").decode("utf-8", "replace")


@dataclass
class Directory:
    """Tags by their numbers, and the directories that some of them lead to."""

    tags: dict[int, Tag] = field(default_factory=dict)
    children: dict[int, Directory] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tags) or any(self.children.values())


class Entry(NamedTuple):
    """A tag whose value may lie elsewhere in the file."""

    kind: int
    length: int
    value: bytes
    """The value if it has room here, or where it lies."""
    raw: bytes


class TagReader:
    """Reads the directories of a TIFF or an EXIF block; no value, nor all together, takes more than `MAX_BYTES`.

    Raises:
        ValueError: It is neither.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._end, self._left = file, file.seek(0, os.SEEK_END), MAX_BYTES
        file.seek(0)
        head = file.read(16)
        orders: dict[bytes, Order] = {b"II": "<", b"MM": ">"}
        if head[:2] not in orders or len(head) < 8:
            raise ValueError("no directory of tags")
        self.order: Order = orders[head[:2]]
        (version,) = struct.unpack(f"{self.order}H", head[2:4])
        if version not in (42, 43) or (version == 43 and len(head) < 16):
            raise ValueError("no directory of tags")
        self.is_big = version == 43  # with 64-bit offsets
        self.first = self.number(head[8:16] if self.is_big else head[4:8])

    def number(self, field: bytes) -> int:
        """An offset of the file."""
        return int(struct.unpack(f"{self.order}{'Q' if self.is_big else 'I'}", field)[0])

    def entries(self, offset: int) -> dict[int, Entry]:
        """The entries of the directory that lies there.

        Raises:
            ValueError: There is none, or one with too many.
        """
        counts, size, code = (8, 20, "HHQ8s") if self.is_big else (2, 12, "HHI4s")
        (count,) = struct.unpack(f"{self.order}{'Q' if self.is_big else 'H'}", self._bytes(offset, counts))
        if count > _MAX_ENTRIES:
            raise ValueError(f"{count} tags")
        content = self._bytes(offset + counts, count * size)
        found: dict[int, Entry] = {}
        for start in range(0, len(content), size):
            raw = content[start : start + size]
            tag, kind, length, value = struct.unpack(self.order + code, raw)
            found.setdefault(tag, Entry(kind, length, value, raw))
        return found

    def has_next(self, offset: int) -> bool:
        """Whether another directory follows the one that lies there: of a thumbnail, or a page.

        Raises:
            ValueError: There is none.
        """
        counts, size, offsets = (8, 20, 8) if self.is_big else (2, 12, 4)
        return any(self._bytes(offset + counts + len(self.entries(offset)) * size, offsets))

    def tag(self, entry: Entry) -> Tag:
        """The value of an entry.

        Raises:
            ValueError: It lies outside the file, or is too large, or of no known type.
        """
        if entry.kind not in _SIZES:
            raise ValueError(f"type {entry.kind}")
        size = entry.length * _SIZES[entry.kind]
        if size > self._left:
            raise ValueError(f"{size} bytes")
        self._left -= size
        if size <= len(entry.value):
            return Tag(entry.kind, entry.value[:size])
        return Tag(entry.kind, self._bytes(self.number(entry.value), size))

    def _bytes(self, offset: int, size: int) -> bytes:
        if offset + size > self._end:
            raise ValueError("outside the file")
        self._file.seek(offset)
        return self._file.read(size)


def exif_block(directory: Directory, order: Order) -> bytes:
    """A directory as a block of its own, such as a JPEG's."""
    body, place = _packed(directory, order, False, 8)
    return (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", place) + body


def add_tags(file: BinaryIO, directory: Directory, order: Order) -> None:
    """Adds tags to the first directory of a TIFF, in place of those of the same number.

    A new directory is appended to the file, and becomes its first; nothing else of it changes.

    Args:
        file: Open for reading and writing; it has a single directory.
        directory: The tags, and directories for tags that lead to some.
        order: The byte order of their values.
    """
    reader = TagReader(file)
    kept = {code: entry.raw for code, entry in reader.entries(reader.first).items()}
    at = file.seek(0, os.SEEK_END)
    file.write(bytes(at % 2))
    body, place = _packed(_in_order(directory, order, reader.order), reader.order, reader.is_big, at + at % 2, kept)
    file.write(body)
    file.seek(8 if reader.is_big else 4)
    file.write(struct.pack(f"{reader.order}{'Q' if reader.is_big else 'I'}", place))


def _in_order(directory: Directory, order: Order, wanted: Order) -> Directory:
    tags = {code: tag.in_order(order, wanted) for code, tag in directory.tags.items()}
    return Directory(tags, {code: _in_order(child, order, wanted) for code, child in directory.children.items()})


def _packed(
    directory: Directory, order: Order, is_big: bool, at: int, kept: dict[int, bytes] | None = None
) -> tuple[bytes, int]:
    """The bytes of a directory and of all that it leads to, which will lie at `at`, and where it begins itself.

    Entries of `kept` are taken as they are, where the directory has none of their number.
    """
    offsets = "Q" if is_big else "I"
    body, tags = b"", dict(directory.tags)
    for code, child in directory.children.items():
        if child:
            content, place = _packed(child, order, is_big, at + len(body))
            body += content
            tags[code] = Tag(LONG8 if is_big else LONG, struct.pack(order + offsets, place))
    entries = dict(kept or {})
    for code, tag in tags.items():
        value = tag.data
        if len(value) > struct.calcsize(offsets):
            value, stored = struct.pack(order + offsets, at + len(body)), value
            body += stored + bytes(len(stored) % 2)
        field = value.ljust(struct.calcsize(offsets), b"\0")
        entries[code] = struct.pack(f"{order}HH{offsets}", code, tag.kind, tag.length) + field
    head = struct.pack(order + ("Q" if is_big else "H"), len(entries))
    end = bytes(struct.calcsize(offsets))  # no further directory
    return body + head + b"".join(entries[code] for code in sorted(entries)) + end, at + len(body)
