"""Encoded images that are no files of the disk: bytes, and binary files that somebody opened."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import ImageFile

_BYTES = (bytes, bytearray, memoryview)


@dataclass(frozen=True, slots=True, order=True)
class EncodedImage(ImageFile):
    """The content of an image file; `path` is what messages call it."""

    content: bytes = field(default=b"", repr=False)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.content)

    def read(self) -> bytes:
        """All bytes of the image."""
        return self.content

    def open(self) -> BinaryIO:
        """The bytes as a file that can be read from its start."""
        return io.BytesIO(self.content)


def is_file_object(value: Any) -> bool:
    """Whether a value is read as a file: `io.BytesIO`, what `open` returns, an upload's file."""
    return callable(getattr(value, "read", None))


def encoded_image(value: Any) -> EncodedImage | None:
    """The encoded image that bytes hold, or an open file from where it stands; None of anything else.

    The file is read to its end, and stays open.

    Raises:
        UserError: It cannot be read, or not as bytes.
    """
    if isinstance(value, EncodedImage):
        return value
    if isinstance(value, _BYTES):
        return EncodedImage("the encoded image", content=bytes(value))
    return _read_file(value) if is_file_object(value) else None


def read_file_objects(images: Any) -> Any:
    """Returns images, in the same lists, with the content of each open file in its place."""
    if isinstance(images, list | tuple):
        return [_read_item(i, image) for i, image in enumerate(images)]
    return _read_file(images) if is_file_object(images) else images


@contextlib.contextmanager
def faults_of_item(index: int, image: Any, of: str = "list") -> Iterator[None]:
    """Adds the index of an image in its list to the errors of the block; a path names itself.

    Raises:
        UserError: What the block raised, with the index.
    """
    try:
        yield
    except UserError as error:
        if isinstance(image, str | os.PathLike):
            raise
        raise UserError(f"image {index} of the {of} (counted from 0): {error}") from error


def _read_item(index: int, image: Any) -> Any:
    with faults_of_item(index, image):
        return read_file_objects(image)


def _read_file(file: Any) -> EncodedImage:
    name = _name_of(file)
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise UserError(f"{name} cannot be read ({error}): give an open binary file, or its bytes") from error
    if inspect.isawaitable(content):
        if inspect.iscoroutine(content):
            content.close()  # else Python warns that nobody awaited it
        raise UserError(
            f"{name} is read by a coroutine: give `await x.read()`, or the file below it (of an upload, x.file)"
        )
    if not isinstance(content, _BYTES):
        raise UserError(f"{name} gives {type(content).__name__} when it is read, not bytes: open it with mode 'rb'")
    return EncodedImage(name, content=bytes(content))


def _name_of(file: Any) -> str:
    """What messages call an open file: its name, or that of an upload, where it has one."""
    names = (getattr(file, attribute, None) for attribute in ("filename", "name"))
    return next((name for name in names if isinstance(name, str) and name), f"the file object ({type(file).__name__})")
