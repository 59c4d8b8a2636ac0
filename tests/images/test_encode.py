"""Results in the format of their source: transparency and 16 bits where it can hold them, a sentence where not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import read_unscaled
from cyclegan_fast.images.encode import encode_as, format_for
from tests.data.sample_images import needs_deep, noise

LOSSLESS = [("PNG", (1, 2, 3, 4)), ("BMP", (1, 3)), ("TIFF", (1, 2, 3, 4, 5)), ("PPM", (1, 3))]
DEEP = [("PNG", (1, 2, 3, 4)), ("TIFF", (1, 2, 3, 4, 5)), ("PPM", (1, 3))]


def source(folder: Path, kind: str) -> Path:
    path = folder / "named.wrong"
    noise(9, 7).save(path, kind)
    return path


def encoded(path: Path, pixels: np.ndarray) -> np.ndarray:
    kind = Image.open(path).format
    made = path.with_name("made")
    made.write_bytes(encode_as(format_for(path, path), pixels))
    if kind != "TIFF":
        assert Image.open(made).format == kind
    return read_unscaled(made, pixels.shape[2])


@needs_deep
@pytest.mark.parametrize(("kind", "channels"), [(kind, n) for kind, channels in LOSSLESS for n in channels])
def test_8_bits(tmp_path: Path, kind: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, channels), dtype=np.uint8)
    assert np.array_equal(encoded(source(tmp_path, kind), pixels), pixels)


@needs_deep
@pytest.mark.parametrize(("kind", "channels"), [(kind, n) for kind, channels in DEEP for n in channels])
def test_16_bits(tmp_path: Path, kind: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (7, 9, channels), dtype=np.uint16)
    made = encoded(source(tmp_path, kind), pixels)
    assert made.dtype == np.uint16 and np.array_equal(made, pixels)


def test_transparent_webp(tmp_path: Path) -> None:
    pixels = np.dstack([np.full((32, 32, 3), (200, 40, 90), np.uint8), np.full((32, 32), 130, np.uint8)])
    made = Image.open(io.BytesIO(encode_as(format_for(source(tmp_path, "WEBP"), source(tmp_path, "WEBP")), pixels)))
    assert made.mode == "RGBA" and np.abs(np.asarray(made).astype(int) - pixels).max() <= 4


@pytest.mark.parametrize(
    ("kind", "channels"), [("JPEG", 4), ("JPEG", 2), ("WEBP", 2), ("GIF", 4), ("PPM", 4), ("BMP", 4), ("PNG", 5)]
)
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, kind: str, channels: int) -> None:
    with pytest.raises(UserError, match=f"{channels} channels, which {kind} cannot hold: give the image as"):
        encode_as(format_for(source(tmp_path, kind), source(tmp_path, kind)), np.zeros((7, 9, channels), np.uint8))
    with pytest.raises(UserError, match=f"floating-point values, which {kind} cannot hold: give the image as TIFF"):
        encode_as(format_for(source(tmp_path, kind), source(tmp_path, kind)), np.zeros((7, 9, 1), np.float32))
