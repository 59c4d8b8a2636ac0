"""Where the bytes of an image are."""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, overload

Half = Literal["", "left", "right"]


@dataclass(frozen=True, slots=True, order=True)
class ImageFile:
    """One image: a file, or `length` bytes of a file from `offset` on (a member of an archive); all of it or a half."""

    path: str
    member: str = ""
    """Name inside the archive; empty for a file of its own."""
    offset: int = 0
    length: int = -1
    half: Half = ""
    """Which half of an image that shows both domains side by side; empty for all of it."""

    def __str__(self) -> str:
        """What people read, and what a quarantine list holds."""
        name = f"{self.path}:{self.member}" if self.member else self.path
        return f"{name} ({self.half} half)" if self.half else name

    @property
    def whole(self) -> ImageFile:
        """The image that this is a half of, or the same."""
        return replace(self, half="") if self.half else self

    def columns(self, width: int) -> tuple[int, int]:
        """What this shows of an upright image so wide: the first column and how many.

        A column in the middle belongs to neither half.
        """
        return (width - width // 2 if self.half == "right" else 0), (width // 2 if self.half else width)

    @property
    def size(self) -> int:
        """Length in bytes.

        Raises:
            OSError: the file is gone.
        """
        return Path(self.path).stat().st_size if self.length < 0 else self.length

    def read(self) -> bytes:
        """All bytes of the image.

        Raises:
            OSError: the file is gone, or may not be read.
        """
        with Path(self.path).open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)

    def open(self) -> BinaryIO:
        """The bytes as a file that can be read from its start."""
        return io.BytesIO(self.read()) if self.member else Path(self.path).open("rb")


def as_image_file(place: ImageFile | Path | str) -> ImageFile:
    """A path as the source of a whole file."""
    return place if isinstance(place, ImageFile) else ImageFile(str(place))


class ImageFileTable(Sequence[ImageFile]):
    """Sources in a few arrays; each is made when it is asked for.

    A million take about 60 MB and travel to a worker process at once; as objects they would take three to four times
    as much, and seconds for each worker.
    """

    def __init__(self, sources: Iterable[ImageFile] = ()) -> None:
        homes: dict[_Home, int] = {}
        self._home, self._offset, self._length = array("l"), array("q"), array("q")
        self._end, names = array("q"), bytearray()
        for source in sources:
            start = 0 if source.member else source.path.rfind(os.sep) + 1
            head, name = (source.path, source.member) if source.member else (source.path[:start], source.path[start:])
            home = _Home(head, bool(source.member), source.half)
            self._home.append(homes.setdefault(home, len(homes)))
            self._offset.append(source.offset)
            self._length.append(source.length)
            names += os.fsencode(name)
            self._end.append(len(names))
        self._homes, self._names = list(homes), bytes(names)

    def __len__(self) -> int:
        return len(self._end)

    @overload
    def __getitem__(self, index: int) -> ImageFile: ...
    @overload
    def __getitem__(self, index: slice) -> ImageFileTable: ...
    def __getitem__(self, index: int | slice) -> ImageFile | ImageFileTable:
        if isinstance(index, slice):
            return ImageFileTable(self[i] for i in range(*index.indices(len(self))))
        i = range(len(self))[index]
        head, is_archive, half = self._homes[self._home[i]]
        name = os.fsdecode(self._names[self._end[i - 1] if i else 0 : self._end[i]])
        where = (head, name) if is_archive else (head + name, "")
        return ImageFile(*where, self._offset[i], self._length[i], half)


class _Home(NamedTuple):
    """What many sources have in common."""

    head: str  # an archive, or a folder with its last slash
    is_archive: bool
    half: Half
