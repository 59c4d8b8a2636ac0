"""The types of what `infer` takes, for type checkers."""

from __future__ import annotations

import os
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL.Image import Image


class BinaryFile(Protocol):
    """An open file, an `io.BytesIO`, an upload's file."""

    def read(self) -> bytes:
        """The bytes from where it stands to its end."""
        ...


ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | Image
"""Of which `infer` makes a PIL image."""

Source = TypeVar("Source", bound=ImageSource)
Array = TypeVar("Array", bound=np.ndarray[Any, Any])
