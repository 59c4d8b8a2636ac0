"""Real image files, good and bad."""

import importlib.util
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

needs_deep = pytest.mark.skipif(
    not (importlib.util.find_spec("tifffile") and importlib.util.find_spec("imagecodecs")),
    reason="tifffile and imagecodecs, of the extra [deep], are not installed",
)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB picture whose JPEG is long enough to be cut and scratched."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height grey pixels and holds next to none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def _text(path: Path) -> None:
    path.write_text("this is no picture\n")


def _cut(path: Path) -> None:
    noise(64, 64).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def _scratched(path: Path) -> None:
    noise(64, 64).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:6000] + bytes(50) + content[6050:])


BAD_FILES: dict[str, Callable[[Path], object]] = {
    "empty.jpg": Path.touch,
    "text.jpg": _text,
    "cut.jpg": _cut,
    "cut.png": _cut,
    "scratched.png": _scratched,
    "bomb.png": lambda path: path.write_bytes(png_header(30_000, 30_000)),
    "float.tif": lambda path: Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(path),
}
