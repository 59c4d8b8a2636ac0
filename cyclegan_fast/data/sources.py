"""Where the bytes of an image are."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """One image: a file, or `length` bytes of a file from `offset` on (a member of an archive); all of it or a half."""

    path: str
    member: str = ""
    """Name inside the archive; empty for a file of its own."""
    offset: int = 0
    length: int = -1
    half: Literal["", "left", "right"] = ""
    """Which half of a picture that shows both domains side by side; empty for all of it."""

    def __str__(self) -> str:
        """What people read, and what a quarantine list holds."""
        name = f"{self.path}:{self.member}" if self.member else self.path
        return f"{name} ({self.half} half)" if self.half else name

    @property
    def whole(self) -> Source:
        """The picture that this is a half of, or the same."""
        return replace(self, half="") if self.half else self

    def columns(self, width: int) -> tuple[int, int]:
        """What this shows of an upright picture so wide: the first column and how many.

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


def as_source(place: Source | Path | str) -> Source:
    """A path as the source of a whole file."""
    return place if isinstance(place, Source) else Source(str(place))
