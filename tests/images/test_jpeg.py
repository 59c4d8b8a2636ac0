"""JPEG of every kind of colour: grey, YCbCr, RGB, CMYK and YCCK as Adobe writes them, and what is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.data.catalog.probe import inspect
from cyclegan_fast.images import BadImageError
from cyclegan_fast.images.decode import read, read_unscaled
from cyclegan_fast.images.image_file import ImageFile
from tests.data.sample_images import needs_deep

COLOURS = np.array([[(250, 240, 10), (20, 30, 40)], [(200, 20, 30), (128, 128, 128)]])  # yellow, dark, red, grey


INSIDE = np.s_[2:14, 2:14], np.s_[2:14, 18:30], np.s_[18:30, 2:14], np.s_[18:30, 18:30]  # where no chroma bleeds


def photo() -> np.ndarray:
    return np.kron(COLOURS, np.ones((16, 16, 1))).astype(np.uint8)  # [32, 32, 3]


def check(path: Path, wanted: np.ndarray, stored: int, tolerance: int = 6) -> None:
    metadata = inspect(ImageFile(str(path)))
    assert (metadata.format, metadata.channels, metadata.images, metadata.values) == ("JPEG", stored, True, "8")
    made = read(path, PixelFormat(channels=3)).astype(int)
    grey = read(path, PixelFormat(channels=1)).astype(float)[..., 0]
    for part in INSIDE:
        assert np.abs(made - wanted)[part].max() <= tolerance
        assert np.abs(grey - wanted @ np.array((0.299, 0.587, 0.114)))[part].max() <= tolerance


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"keep_rgb": True}, {"progressive": True}], ids=str)
def test_colour(tmp_path: Path, options: dict) -> None:
    Image.fromarray(photo()).save(tmp_path / "x.jpg", quality=98, **options)
    check(tmp_path / "x.jpg", photo().astype(int), 3)


def test_grey(tmp_path: Path) -> None:
    Image.fromarray(photo()[..., 0]).save(tmp_path / "x.jpg", quality=98)
    check(tmp_path / "x.jpg", photo()[..., :1].repeat(3, axis=2).astype(int), 1)


def test_cmyk_is_inverted_as_adobe_writes_it(tmp_path: Path) -> None:
    ink = np.concatenate([255 - photo(), np.zeros((32, 32, 1), np.uint8)], axis=2)
    Image.fromarray(ink, "CMYK").save(tmp_path / "x.jpg", quality=98)
    check(tmp_path / "x.jpg", photo().astype(int), 4)
    assert np.abs(read_unscaled(tmp_path / "x.jpg", 4).astype(int) - ink).max() <= 6


@needs_deep
def test_ycck(tmp_path: Path) -> None:
    import imagecodecs

    ink = np.concatenate([255 - photo(), np.full((32, 32, 1), 51, np.uint8)], axis=2)
    inverted = 255 - ink  # as Adobe stores it
    content = imagecodecs.jpeg8_encode(inverted, level=98, colorspace="CMYK", outcolorspace="YCCK")
    (tmp_path / "x.jpg").write_bytes(content)
    check(tmp_path / "x.jpg", np.rint(photo() * (1 - 51 / 255)).astype(int), 4)


@needs_deep
def test_12_bits_are_refused_in_a_sentence(tmp_path: Path) -> None:
    import imagecodecs

    grey = np.linspace(0, 4095, 32 * 32).reshape(32, 32).astype(np.uint16)
    (tmp_path / "x.jpg").write_bytes(imagecodecs.jpeg8_encode(grey, bitspersample=12))
    for look in (lambda path: inspect(ImageFile(str(path))), lambda path: read(path, PixelFormat(channels=1))):
        with pytest.raises(BadImageError, match=r"x\.jpg: .*of 12 bits"):
            look(tmp_path / "x.jpg")


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"\0\0\0\x18ftypheic", "HEIC"), (bytes(128) + b"DICM", "DICOM"), (b"\x93NUMPY\1\0", "NumPy"), (b"text", "known")],
)
def test_other_formats_under_the_name_of_a_jpeg(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / "IMG_1.jpg").write_bytes(content + bytes(100))
    with pytest.raises(BadImageError, match=name):
        read(tmp_path / "IMG_1.jpg", PixelFormat())


def test_two_images_in_one_file_give_the_first(tmp_path: Path) -> None:
    other = io.BytesIO()
    Image.new("RGB", (32, 32)).save(other, "JPEG")
    Image.fromarray(photo()).save(
        tmp_path / "x.jpg", "MPO", quality=98, save_all=True, append_images=[Image.open(other)]
    )
    check(tmp_path / "x.jpg", photo().astype(int), 3)
