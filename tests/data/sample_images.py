"""Real image files, good and bad."""

import importlib.util
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.data.scenes import draw_scene, render_photo

needs_deep = pytest.mark.skipif(
    not (importlib.util.find_spec("tifffile") and importlib.util.find_spec("imagecodecs")),
    reason="tifffile and imagecodecs, of the extra [deep], are not installed",
)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image whose JPEG is long enough to be cut and scratched."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height grey pixels and holds next to none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def _text(path: Path) -> None:
    path.write_text("this is no image\n")


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


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image with the edges, textures and noise of a photograph."""
    return Image.fromarray(render_photo(draw_scene(seed, seed), max(width, height))[:height, :width])


def photo_folder(folder: Path) -> Path:
    """7 and 5 photographs as JPEGs: odd sides, each chroma sampling, progressive, grey, turned by EXIF."""
    sides = [(301, 227), (149, 333), (640, 427), (200, 90), (97, 211), (131, 99), (420, 315)]
    ways: list[dict[str, object]] = [{"subsampling": 2}, {"subsampling": 0}, {"progressive": True}, {"subsampling": 1}]
    for name, count in (("trainA", 7), ("trainB", 5)):
        (folder / name).mkdir()
        for i, (width, height) in enumerate(sides[:count]):
            image = photo(width, height, seed=i)
            exif = Image.Exif()
            exif[0x0112] = 1 + i  # EXIF orientation
            image = image.convert("L") if i == 4 else image
            image.save(folder / name / f"{i}.jpg", quality=80 + 3 * i, exif=exif, **ways[i % 4])
    return folder


def oriented(path: Path, orientation: int) -> None:
    """An image that is to be turned before it is shown."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(75, 62, seed=orientation).save(path, exif=exif)


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    """The same PNG with one chunk more after its header."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png[:33] + chunk + png[33:]


def _png_with(kind: bytes, body: bytes) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        noise(75, 62).save(path)
        path.write_bytes(with_chunk(path.read_bytes(), kind, body))

    return write


def _alpha(path: Path) -> None:
    image = noise(75, 62)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


def _jpeg_turned_by_xmp(path: Path) -> None:
    noise(75, 62).save(path, xmp=b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')


def _frames(path: Path, kind: str) -> None:
    noise(75, 62).save(path, format=kind, save_all=True, append_images=[noise(75, 62, seed=1)])


# Good images that decoders other than ours read by rules of their own, or not at all.
ODD_FILES: dict[str, Callable[[Path], object]] = {
    "alpha.png": _alpha,
    "palette.png": lambda path: noise(75, 62).quantize(16).save(path),
    "two_levels.png": lambda path: noise(75, 62).convert("1").save(path),
    "grey16.png": lambda path: Image.fromarray(np.arange(75 * 62, dtype=np.uint16).reshape(62, 75) * 14).save(path),
    "key.png": _png_with(b"tRNS", bytes([0, 20, 0, 30, 0, 40])),
    "turned.png": lambda path: oriented(path, 6),
    "frames.png": lambda path: _frames(path, "PNG"),
    "cmyk.jpg": lambda path: noise(75, 62).convert("CMYK").save(path),
    "rgb.jpg": lambda path: noise(75, 62).save(path, keep_rgb=True),
    "xmp.jpg": _jpeg_turned_by_xmp,
    "two_images.jpg": lambda path: _frames(path, "MPO"),
    "with_a_tail.jpg": lambda path: (noise(75, 62).save(path), path.write_bytes(path.read_bytes() + b"tail")),
    "frames.gif": lambda path: _frames(path, "GIF"),
    "lossless.webp": lambda path: noise(75, 62).save(path, lossless=True),
    "deflated.tif": lambda path: noise(75, 62).save(path, compression="tiff_adobe_deflate"),
    "bits.bmp": lambda path: noise(75, 62).save(path),
    "a_png.jpg": lambda path: noise(75, 62).convert("LA").save(path, format="PNG"),
}

# Images that every decoder reads alike, and their upright sizes.
PLAIN_FILES: dict[str, tuple[Callable[[Path], object], tuple[int, int]]] = {
    "ycbcr.jpg": (lambda path: noise(75, 62).save(path), (75, 62)),
    "grey.jpg": (lambda path: noise(75, 62).convert("L").save(path), (75, 62)),
    "progressive.jpg": (lambda path: noise(75, 62).save(path, progressive=True), (75, 62)),
    "turned.jpg": (lambda path: oriented(path, 6), (62, 75)),
    "mirrored.jpg": (lambda path: oriented(path, 2), (75, 62)),
    "rgb.png": (lambda path: noise(75, 62).save(path), (75, 62)),
    "grey.png": (lambda path: noise(75, 62).convert("L").save(path), (75, 62)),
    "gamma.png": (_png_with(b"gAMA", struct.pack(">I", 22_000)), (75, 62)),
    "words.png": (_png_with(b"tEXt", b"Software\0a program"), (75, 62)),
    "a_jpeg.png": (lambda path: noise(75, 62).save(path, format="JPEG"), (75, 62)),
}
