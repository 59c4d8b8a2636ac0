"""PNG of every kind, written chunk by chunk from the specification: bits, colour types, transparency, much text."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.data.catalog.probe import inspect
from cyclegan_fast.images import BadImageError
from cyclegan_fast.images.decode import read, read_unscaled
from cyclegan_fast.images.image_file import ImageFile
from tests.data.sample_images import needs_deep, noise
from tests.images.tiff_writer import pack_bits

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # colour types
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
BITS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGB_ALPHA: (8, 16)}
KINDS = [(kind, bits, key) for kind in BITS for bits in BITS[kind] for key in (False, True) if kind < 4 or not key]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples: np.ndarray, bits: int, colour_type: int, *before: bytes) -> bytes:
    """The bytes of a PNG of samples [H, W, C]; `before` are the chunks before the pixels."""
    height, width, _ = samples.shape
    rows = pack_bits(samples.reshape(height, -1), bits)  # [H, bytes]
    pixels = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())  # filter 0 before each row
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *before, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@needs_deep
@pytest.mark.parametrize(("colour_type", "bits", "key"), KINDS)
@pytest.mark.parametrize("depth", ["8", "16", "float"])
def test_every_kind(tmp_path: Path, colour_type: int, bits: int, key: bool, depth: str) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "x.png"
    samples = rng.integers(0, 1 << bits, (7, 19, CHANNELS[colour_type]))
    samples[:2] = (1 << bits) - (1 << bits - 1 >> 1) - 1 or 1  # what a key makes transparent
    white, top = (1 << bits) - 1, 255 if bits <= 8 else 65535
    before = []
    values, alpha = samples * top / white, None
    if colour_type == PALETTE:
        entries = rng.integers(0, 256, (1 << bits, 3))
        before.append(chunk(b"PLTE", entries.astype(np.uint8).tobytes()))
        values = entries[samples[..., 0]].astype(float)
        if key:
            shares = rng.integers(0, 256, 1 << bits)
            before.append(chunk(b"tRNS", shares.astype(np.uint8).tobytes()))
            alpha = shares[samples] / 255
    elif key:
        before.append(chunk(b"tRNS", samples[0, 0].astype(">u2").tobytes()))
        alpha = (samples != samples[0, 0]).any(axis=2, keepdims=True).astype(float)
    elif colour_type in (GREY_ALPHA, RGB_ALPHA):
        values, alpha = values[..., :-1], values[..., -1:] / top
    path.write_bytes(png(samples, bits, colour_type, *before))
    colour = values.shape[2] == 3
    if alpha is not None:
        values = values * alpha + top * (1 - alpha)
    metadata = inspect(ImageFile(str(path)))
    assert metadata.channels == (3 if colour else 1) + (alpha is not None) and metadata.images
    for channels in (1, 3):
        wanted = values @ np.array((0.299, 0.587, 0.114)) if colour and channels == 1 else values
        wanted = np.broadcast_to(wanted.reshape(7, 19, -1), (7, 19, channels)) * (255 / top if depth == "8" else 1)
        if depth == "float":
            made = read(path, PixelFormat(channels=channels, depth="float", low=0.0, high=float(top)))
            made = (made + 1.0) * (top / 2)
        else:
            made = read(path, PixelFormat(channels=channels, depth=depth))  # type: ignore[arg-type]
            wanted = wanted * (257 if depth == "16" and top == 255 else 1)
            assert made.dtype == (np.uint8 if depth == "8" else np.uint16)
        # Pillow rounds to 8 bits on its way, and keeps the high byte of 16-bit colour and of its transparency.
        tolerance = 257 if depth == "16" and top == 255 else 2.0 if depth == "8" and top == 65535 else 1.0
        assert np.abs(made - wanted).max() <= tolerance, channels


@needs_deep
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour_type", [GREY_ALPHA, RGB_ALPHA])
def test_transparency_is_a_channel_where_so_many_are_wanted(tmp_path: Path, colour_type: int, bits: int) -> None:
    samples = np.random.default_rng(0).integers(0, 1 << bits, (7, 19, CHANNELS[colour_type]))
    (tmp_path / "x.png").write_bytes(png(samples, bits, colour_type))
    assert np.array_equal(read_unscaled(tmp_path / "x.png", samples.shape[2]), samples)


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt", "iCCP"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_much_text_is_left_out(tmp_path: Path, kind: str, where: str) -> None:
    """Of renderers and editors; Pillow refuses the whole file. Small texts, and orientation in EXIF, stay."""
    path, pixels = tmp_path / "x.png", np.asarray(noise(20, 12))
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(path, exif=exif)
    body = b"workflow\0" + {"zTXt": b"\0", "iTXt": b"\1\0\0\0", "tEXt": b"", "iCCP": b"\0"}[kind]
    text = b"x" * (70_000_000 if (kind, where) == ("tEXt", "before") else 3_000_000)  # beyond what Pillow takes
    large = chunk(kind.encode(), body + (text if kind == "tEXt" else zlib.compress(text)))
    content = path.read_bytes()
    at = 33 if where == "before" else len(content) - 12
    path.write_bytes(content[:at] + large + content[at:])
    assert np.array_equal(read_unscaled(path, 3), pixels[::-1, ::-1])
    assert inspect(ImageFile(str(path))).rotated
    path.write_bytes(path.read_bytes()[:-40])
    if where == "after":
        return  # what is cut off is the text alone
    with pytest.raises(BadImageError, match=r"x\.png: damaged"):
        read_unscaled(path, 3)


def test_many_texts_are_left_out_together(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    for i in range(180):
        info.add_text(f"text {i}", "x" * 400_000, zip=True)  # 72 MB, more than Pillow takes
    noise(20, 12).save(tmp_path / "x.png", pnginfo=info)
    assert np.array_equal(read_unscaled(tmp_path / "x.png", 3), np.asarray(noise(20, 12)))
