"""More than 8 bits and other than 1 or 3 channels: one documented rule per kind of file, the same in every loader."""

import contextlib
import importlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast import ops
from cyclegan_fast.config import DataConfig, PixelFormat
from cyclegan_fast.data import transforms
from cyclegan_fast.data.catalog.probe import inspect
from cyclegan_fast.images import BadImageError, to_model_range
from cyclegan_fast.images.decode import read, read_unscaled
from cyclegan_fast.images.high_bit_depth import encode_png, encode_ppm
from cyclegan_fast.images.image_file import as_image_file
from cyclegan_fast.images.tiff import encode_tiff
from tests.data.sample_images import needs_deep, noise, png_header
from tests.images.test_decode import TURNS
from tests.reliability import Recorder

GREY, RGB = PixelFormat(channels=1, depth="16"), PixelFormat(channels=3, depth="16")
FLOAT = PixelFormat(channels=1, depth="float", low=-1000.0, high=3000.0)


def deep(*shape: int, seed: int = 0) -> np.ndarray:
    """uint16 noise that holds both ends."""
    pixels = np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)
    pixels.flat[0], pixels.flat[1] = 0, 65535
    return pixels


@contextlib.contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Lets this process take `more` bytes on top of those that it has."""
    pages, limits = int(Path("/proc/self/statm").read_text().split()[0]), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def probe(path: Path) -> tuple[Any, ...]:
    """Width, height, channels, the depth that takes all, the least and the greatest value."""
    metadata = inspect(as_image_file(path))
    return metadata.width, metadata.height, metadata.channels, metadata.values, metadata.low, metadata.high


def save(path: Path, pixels: np.ndarray) -> Path:
    """Writes [H, W, C] as what the suffix says."""
    if pixels.shape[2] == 1:
        Image.fromarray(pixels[..., 0]).save(path)
    else:
        path.write_bytes({".png": encode_png, ".ppm": encode_ppm, ".tif": encode_tiff}[path.suffix](pixels))
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=needs_deep)])
def test_16_bits_are_read_whole(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = deep(9, 7, channels)
    path = save(tmp_path / f"x{suffix}", pixels)
    assert probe(path)[:4] == (7, 9, channels, "16")
    pixel_format = RGB if channels == 3 else GREY
    assert np.array_equal(read(path, pixel_format), pixels) and read(path, pixel_format).dtype == np.uint16
    shallow = read(path, PixelFormat(channels=channels))
    high_byte = channels == 3 and suffix != ".ppm"  # that is what Pillow keeps of colour
    expected = pixels >> 8 if high_byte else np.rint(pixels / 257)
    assert np.array_equal(shallow, expected) and shallow.dtype == np.uint8


def test_16_bit_ppm_needs_no_package_and_counts_from_its_own_white(tmp_path: Path) -> None:
    pixels = deep(5, 4, 3) >> 4
    (tmp_path / "x.ppm").write_bytes(b"P6\n# a word\n4 5\n4095\n" + pixels.astype(">u2").tobytes())
    assert np.array_equal(read(tmp_path / "x.ppm", RGB), np.rint(pixels / 4095 * 65535))


def test_grey_becomes_rgb_and_8_bits_16_by_repetition(tmp_path: Path) -> None:
    pixels = deep(6, 5, 1)
    assert np.array_equal(read(save(tmp_path / "x.png", pixels), RGB), pixels.repeat(3, axis=2))
    noise(6, 5).save(tmp_path / "y.png")
    assert np.array_equal(read(tmp_path / "y.png", RGB), np.asarray(noise(6, 5)).astype(np.uint16) * 257)


@needs_deep
def test_16_bit_colour_becomes_grey_by_luma(tmp_path: Path) -> None:
    pixels = deep(6, 5, 3)
    made = read(save(tmp_path / "x.png", pixels), GREY)
    assert np.array_equal(made[..., 0], np.rint(pixels @ (0.299, 0.587, 0.114)))


@needs_deep
@pytest.mark.parametrize("channels", [2, 4])
def test_16_bit_transparency_is_laid_over_white(tmp_path: Path, channels: int) -> None:
    pixels = deep(6, 5, channels)
    path = tmp_path / "x.png"
    path.write_bytes(encode_png(pixels))
    assert probe(path)[:4] == (5, 6, channels, "16")
    share = pixels[..., -1:] / 65535
    expected = np.rint(pixels[..., :-1] * share + 65535 * (1 - share))
    assert np.abs(read(path, GREY if channels == 2 else RGB) - expected).max() == 0
    assert np.array_equal(read_unscaled(path, channels), pixels)  # wanted as a channel, it is one


@pytest.mark.parametrize("kind", ["1", "P", "CMYK", "RGBA", "LA", "L"])
@pytest.mark.parametrize("channels", [1, 3])
def test_8_bit_kinds_obey_one_rule_at_every_depth(tmp_path: Path, kind: str, channels: int) -> None:
    image = noise(12, 10).convert("RGBA").convert(kind) if kind != "RGBA" else noise(12, 10).convert("RGBA")
    if kind in ("LA", "RGBA"):
        image.putalpha(noise(12, 10, seed=1).convert("L"))
    path = tmp_path / ("x.tif" if kind == "CMYK" else "x.png")
    image.save(path)
    shallow = read(path, PixelFormat(channels=channels))
    assert shallow.shape == (10, 12, channels) and shallow.dtype == np.uint8
    assert np.array_equal(read(path, PixelFormat(channels=channels, depth="16")), shallow.astype(np.uint16) * 257)
    raw = read(path, PixelFormat(channels=channels, depth="float", low=0.0, high=255.0))
    assert np.abs((raw + 1) * 127.5 - shallow).max() < 1e-4


@pytest.mark.parametrize("kind", ["CMYK", "RGBA", "LA"])
def test_other_numbers_of_channels_are_those_of_the_file(tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 6, len(kind)), dtype=np.uint8)
    Image.fromarray(pixels, kind).save(tmp_path / "x.tif")
    assert np.array_equal(read(tmp_path / "x.tif", PixelFormat(channels=len(kind))), pixels)


@needs_deep
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.float16, np.int16])
@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_of_many_channels(tmp_path: Path, dtype: type, channels: int, planar: Any) -> None:
    import tifffile

    pixels = np.random.default_rng(0).integers(0, 200, (8, 9, channels)).astype(dtype)
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.ascontiguousarray(stored), photometric="minisblack", planarconfig=planar)
    assert probe(path)[:3] == (9, 8, channels)
    assert np.array_equal(read_unscaled(path, channels), pixels)
    with pytest.raises(BadImageError, match=f"it has {channels} channels, and 3 are wanted"):
        read(path, PixelFormat(channels=3, depth="float", high=255.0))


@needs_deep
def test_signed_bytes_are_not_taken_for_unsigned_ones(tmp_path: Path) -> None:
    import tifffile

    pixels = np.arange(-32, 31, dtype=np.int8).reshape(7, 9)
    tifffile.imwrite(tmp_path / "x.tif", pixels)
    assert probe(tmp_path / "x.tif")[2:6] == (1, "float", -32, 30)
    with pytest.raises(BadImageError, match="no known range"):
        read(tmp_path / "x.tif", PixelFormat(channels=1))
    assert np.array_equal(read_unscaled(tmp_path / "x.tif", 1)[..., 0], pixels)


def test_float_tiff_is_mapped_by_its_range_and_clipped_there(tmp_path: Path) -> None:
    values = np.array([[-1000, 1000, 3000, 0], [-5000, 2999.5, 9000, -999.5]], np.float32)
    path = save(tmp_path / "x.tif", values[..., None])
    assert probe(path)[2:6] == (1, "float", -5000, 9000)
    expected = np.array([[-1, 0, 1, -0.5], [-1, 0.99975, 1, -0.99975]])
    assert np.abs(read(path, FLOAT)[..., 0] - expected).max() < 1e-7 and read(path, FLOAT).dtype == np.float32
    for depth in ("8", "16"):
        with pytest.raises(BadImageError, match="no known range: give --depth float"):
            read(path, PixelFormat(channels=1, depth=depth))


def test_depth_float_takes_whole_numbers_as_they_stand(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", np.array([[[0], [1000], [3000], [4000]]], np.uint16))
    assert read(path, FLOAT).ravel().tolist() == [-0.5, 0.0, 1.0, 1.0]


def test_32_bit_whole_numbers(tmp_path: Path) -> None:
    pixels = deep(6, 5, 1)
    assert np.array_equal(read(save(tmp_path / "x.tif", pixels.astype(np.int32)), GREY), pixels)
    path = save(tmp_path / "y.tif", pixels.astype(np.int32) - 1000)
    assert probe(path)[2:6] == (1, "float", -1000, 64535)
    with pytest.raises(BadImageError, match="32-bit pixels have no known range"):
        read(path, GREY)
    wide = PixelFormat(channels=1, depth="float", low=-1000.0, high=64535.0)
    assert np.abs((read(path, wide) + 1) * 32767.5 - pixels).max() < 0.01


@pytest.mark.parametrize("orientation", sorted(TURNS))
@pytest.mark.parametrize("kind", ["grey.png", "grey.tif", "float.tif", "colour.png", "colour.tif"])
def test_exif_turns_deep_images_too(tmp_path: Path, orientation: int, kind: str) -> None:
    upright = deep(6, 9, 3 if kind.startswith("colour") else 1)
    if kind == "float.tif":
        upright = upright.astype(np.float32)
    stored, path = np.ascontiguousarray(TURNS[orientation](upright)), tmp_path / kind
    if not kind.startswith("colour"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored[..., 0]).save(path, exif=exif)
    elif not all(importlib.util.find_spec(name) for name in ("tifffile", "imagecodecs")):
        pytest.skip("tifffile and imagecodecs, of the extra [deep], are not installed")
    elif kind == "colour.tif":
        import tifffile

        tag = (0x0112, 3, 1, orientation, True)
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[tag], metadata=None)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        body = exif.tobytes().removeprefix(b"Exif\0\0")
        content = encode_png(stored)
        at = content.index(b"IDAT") - 4
        path.write_bytes(content[:at] + png_chunk(b"eXIf", body) + content[at:])
    assert np.array_equal(read_unscaled(path, upright.shape[2]), upright)
    assert probe(path)[:2] == (9, 6)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    import struct
    import zlib

    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@needs_deep
def test_a_tiff_gives_its_first_page(tmp_path: Path) -> None:
    import tifffile

    pages = deep(3, 6, 5)
    tifffile.imwrite(tmp_path / "x.tif", pages.astype(np.float64), photometric="minisblack")
    assert np.array_equal(read_unscaled(tmp_path / "x.tif", 1)[..., 0], pages[0])


def test_a_deep_file_with_a_wrong_name_is_read_by_its_content(tmp_path: Path) -> None:
    pixels = deep(6, 5, 1)
    path = tmp_path / "x.jpg"
    Image.fromarray(pixels[..., 0]).save(path, "PNG")
    assert np.array_equal(read(path, GREY), pixels)


@pytest.mark.fault(3)
@pytest.mark.parametrize(
    "pixel_format",
    [
        PixelFormat(channels=3),
        RGB,
        PixelFormat(channels=4, depth="16"),
        PixelFormat(channels=1, depth="float", high=255.0),
    ],
    ids=str,
)
def test_bombs_are_refused_from_their_header(tmp_path: Path, pixel_format: PixelFormat, user_sees: Recorder) -> None:
    bomb = png_header(30_000, 30_000)
    (tmp_path / "grey.png").write_bytes(bomb)
    header = bytearray(bomb[:33])
    header[24:26] = bytes((16, 2))  # 16-bit colour
    (tmp_path / "colour.png").write_bytes(bomb[:8] + png_chunk(b"IHDR", bytes(header[16:29])) + bomb[33:])
    with memory_limit(100_000_000):  # whole it would be gigabytes
        for name in ("grey.png", "colour.png"):
            for look in (probe, lambda path: read(path, pixel_format)):
                with pytest.raises(BadImageError, match="too many pixels") as error:
                    look(tmp_path / name)
    user_sees(error.value)


@needs_deep
def test_a_tiff_bomb_that_pillow_cannot_read_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(encode_tiff(np.zeros((4, 4, 5), np.uint16)))
    content = bytearray(path.read_bytes())
    for tag in (256, 257):  # width, height: type 3 or 4, one value
        at = content.index(tag.to_bytes(2, "little") + b"\x04\0" + (1).to_bytes(4, "little"))
        content[at + 8 : at + 12] = (30_000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(BadImageError, match="too many pixels"):
        read(path, PixelFormat(channels=5, depth="16"))


@needs_deep
@pytest.mark.parametrize("kind", ["colour.png", "many.tif"])
def test_damaged_deep_files_are_named(tmp_path: Path, kind: str) -> None:
    pixels = deep(40, 40, 3 if kind == "colour.png" else 5)
    path = tmp_path / kind
    whole = encode_png(pixels) if kind == "colour.png" else encode_tiff(pixels)
    path.write_bytes(whole[: len(whole) // 2])
    for look in (probe, lambda p: read(p, PixelFormat(channels=pixels.shape[2], depth="16"))):
        with pytest.raises(BadImageError, match=kind) as error:
            look(path)
        assert "\n" not in str(error.value)


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = png_header(8, 6)
    colour = header[:8] + png_chunk(b"IHDR", header[16:24] + bytes((16, 2, 0, 0, 0)))
    rows = (b"\0" + bytes(range(48))) * 6
    import zlib

    path = tmp_path / "x.png"
    path.write_bytes(colour + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b""))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert read(path, PixelFormat(channels=3)).shape == (6, 8, 3)  # the high byte needs none
    with pytest.raises(BadImageError, match=r"imagecodecs reads.*pip install 'cyclegan-fast\[deep\]'"):
        read(path, RGB)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    (tmp_path / "x.tif").write_bytes(b"II*\0" + bytes(20))
    with pytest.raises(BadImageError, match=r"tifffile reads.*pip install 'cyclegan-fast\[deep\]'"):
        read(tmp_path / "x.tif", PixelFormat(channels=5))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_resizing_keeps_type_range_and_precision(dtype: type) -> None:
    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.random((6, 7), np.float32)).resize((70, 60), Image.Resampling.BICUBIC))
    span = (smooth - smooth.min()) / np.ptp(smooth)  # [60, 70], from 0 to 1
    edge = np.where(np.arange(70) < 35, 0.0, 1.0) * np.ones((60, 1))  # bicubic overshoots here
    planes = np.stack([span, edge, 1 - span, 1 - edge, span], axis=-1)
    top, low = {np.uint8: (255, 0), np.uint16: (65535, 0), np.float32: (2, -1)}[dtype]
    pixels = (np.rint(planes * top) if dtype != np.float32 else planes * top + low).astype(dtype)
    resized = transforms.resize(pixels, DataConfig(load_size=36, crop_size=32))
    assert resized.dtype == dtype and resized.shape == (36, 36, 5)
    assert resized[..., 1].min() == low and resized[..., 1].max() == top + low
    for c in (0, 2, 4):  # against the same in float64 steps
        exact = Image.fromarray((planes[..., c] * top + low).astype(np.float32)).resize((36, 36), Image.BICUBIC)
        assert (
            np.abs(resized[..., c] - np.asarray(exact)).max()
            <= {np.uint8: 1.5, np.uint16: 1.0, np.float32: 1e-6}[dtype]
        )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_model_range_crops_and_mirrors_as_the_op_for_bytes_does(dtype: type, channels_last: bool) -> None:
    shallow = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 9, 11, 4), dtype=np.uint8))
    placement = torch.tensor([[0, 0, 0], [3, 4, 1], [2, 1, 1]], dtype=torch.int32)
    wide = shallow.numpy().astype(np.uint16) * 257
    pixels = torch.from_numpy(wide if dtype == np.uint16 else (wide / 32767.5 - 1).astype(np.float32))
    for options in ({}, {"crop": (6, 7)}, {"crop": (6, 7), "placement": placement}):
        made = to_model_range(pixels, channels_last=channels_last, **options)
        expected = ops.from_uint8(shallow, channels_last=channels_last, **options)
        torch.testing.assert_close(made, expected, rtol=0, atol=2e-7)
        assert made.stride() == expected.stride()


def test_every_level_of_16_bits_survives_the_way_to_the_network_and_back() -> None:
    levels = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(1, 256, 256, 1)
    values = to_model_range(levels)
    assert values.min() == -1 and values.max() == 1
    assert torch.equal(((values + 1) * 32767.5).round().view(-1).int(), torch.arange(65536, dtype=torch.int32))
