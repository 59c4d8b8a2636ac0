"""TIFF of every kind: bits, sign, photometric kind, further samples, layout; whole and by rows.

Each file is written from the specification alone and must give the values that are computed here, or one sentence.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.data.catalog.probe import inspect, why_not
from cyclegan_fast.images import BadImageError
from cyclegan_fast.images.decode import read, read_unscaled
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.images.tiff_rows import TiffRows
from tests.data.sample_images import needs_deep
from tests.images.tiff_writer import tiff

KINDS = [("unsigned", bits) for bits in (1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32, 64)]
KINDS += [("signed", bits) for bits in (8, 16, 32, 64)] + [("float", bits) for bits in (16, 32, 64)]
EXTRAS = [(), ("band",), ("straight",), ("premultiplied",), ("band", "straight")]
BASE = {"black": 1, "white": 1, "rgb": 3, "palette": 1, "cmyk": 4, "ycbcr": 3}
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"planar": True},
    {"rows_per_strip": 3},
    {"tile": 16},
    {"deflate": True, "planar": True, "rows_per_strip": 4},
    {"pages": 2, "deflate": True},
]
HEIGHT, WIDTH = 7, 19
COMPRESSIONS = ["lzw", "deflate", "packbits", "zstd", "lzma", "webp", "jpeg2000", "png", "jpeg"]
STRIPS, TILES, PLANES = {"rowsperstrip": 16}, {"tile": (16, 16)}, {"planarconfig": "separate"}
COMPRESSED: list[tuple[str, dict[str, Any], bool]] = [
    *((name, layout, False) for name in COMPRESSIONS for layout in (STRIPS, TILES)),
    *((name, PLANES, False) for name in COMPRESSIONS[:5]),
    *((name, layout, True) for name in ("lzw", "deflate", "zstd") for layout in (STRIPS, TILES, PLANES)),
]


class Sample(NamedTuple):
    """A TIFF, and what its samples mean."""

    content: bytes
    photometric: str
    kind: str
    bits: int
    extras: tuple[str, ...]
    samples: np.ndarray
    colours: np.ndarray | None

    def __str__(self) -> str:
        return f"{self.photometric} {self.kind} {self.bits} {self.extras}"


def samples_of(photometric: Any) -> Iterator[Sample]:
    """Every kind and all further samples; layouts and byte orders take turns, in each combination with all others."""
    rng = np.random.default_rng(0)
    turns = itertools.cycle(itertools.product(LAYOUTS, (False, True)))
    for extras, (kind, bits) in itertools.product(EXTRAS, KINDS):
        if photometric == "palette" and (kind != "unsigned" or bits > 14):
            continue
        shape = HEIGHT, WIDTH, BASE[photometric] + len(extras)
        if kind == "unsigned":
            samples = rng.integers(0, 1 << bits, shape, np.uint64, endpoint=False)
            samples[0, 0], samples[0, 1] = 0, (1 << bits) - 1
        elif kind == "signed":
            samples = rng.integers(-(1 << bits - 1), 1 << bits - 1, shape, np.int64)
        else:
            samples = rng.uniform(-2, 2, shape).astype(f"f{bits // 8}")
        colours = rng.integers(0, 256, (1 << bits, 3)).astype(np.uint16) * 257 if photometric == "palette" else None
        layout, big_endian = next(turns)
        content = tiff(
            samples, bits, photometric, kind=kind, extras=extras, colours=colours, big_endian=big_endian, **layout
        )  # fmt: skip
        yield Sample(content, photometric, kind, bits, extras, samples, colours)
    next(turns)


def expected(sample: Sample, channels: int) -> np.ndarray | str:
    """The values [H, W, channels] in float64 (whole numbers of 64 bits as they are), or a part of the sentence."""
    _, photometric, kind, bits, extras, samples, colours = sample
    if photometric == "ycbcr":
        return "there is no rule for it"  # but for 8 bits, which have a test of their own
    if bits == 24:
        return "there is no rule for it"
    if photometric in ("white", "cmyk") and kind != "unsigned":
        return "must hold unsigned whole numbers"
    if photometric == "cmyk" and bits > 16:
        return "there is no rule for it"
    values, white = samples.copy(), (1 << bits) - 1
    if photometric == "white":
        values[..., 0] = np.uint64(white) - values[..., 0]
    if kind == "unsigned" and bits <= 16:
        top = 255 if bits <= 8 else 65535
        values = np.rint(values.astype(np.float64) * top / white)
    else:
        top = 0
    if photometric == "palette":
        assert colours is not None
        further = values[..., 1:] if bits <= 8 else values[..., 1:] // 256
        values, top = np.concatenate([colours[samples[..., 0]] // 257, further], axis=-1), 255
    if channels not in (1, 3):
        return values if channels == values.shape[2] else f"it has {values.shape[2]} channels"
    if extras in (("straight",), ("premultiplied",)):
        share = values[..., -1:] / top if top else 1.0
        over = values[..., :-1] * share if extras == ("straight",) and top else values[..., :-1]
        paper = 0.0 if photometric == "cmyk" or not top else top * (1.0 - share)
        values = np.minimum(np.rint(over + paper), top) if top else over
    if photometric == "cmyk":
        values = np.rint((top - values[..., :3]) * (top - values[..., 3:4]) / top)
    elif photometric in ("rgb", "palette"):
        values = values[..., :3]
    if photometric in ("rgb", "palette", "cmyk"):
        grey = values.astype(np.float64) @ np.array((0.299, 0.587, 0.114))
        return values if channels == 3 else grey[..., None]
    if values.shape[2] == channels:
        return values
    return values.repeat(3, axis=2) if values.shape[2] == 1 else f"it has {values.shape[2]} channels"


def check(made: np.ndarray, wanted: np.ndarray, sample: Sample, message: str) -> None:
    depth = sample.bits if sample.photometric != "palette" else 8
    if sample.kind == "unsigned" and depth <= 16:
        assert made.dtype == (np.uint8 if depth <= 8 else np.uint16), message
        # Pillow's own rounding where it composes or weighs; a half where luma is rounded here
        tolerance = 1.0 if made.dtype == np.uint8 else 0.5001
    else:
        tolerance = 0.0 if made.dtype.kind != "f" else 1e-3 * float(np.abs(wanted.astype(np.float64)).max())
    difference = np.abs(made.astype(np.float64) - wanted.astype(np.float64)).max()
    assert made.shape == wanted.shape and difference <= tolerance, f"{message}: {difference}"


@needs_deep
@pytest.mark.parametrize("photometric", BASE)
def test_every_kind_gives_its_values_or_a_sentence(tmp_path: Path, photometric: str) -> None:
    path, read_well = tmp_path / "x.tif", 0
    for sample in samples_of(photometric):
        if photometric == "ycbcr" and (sample.kind, sample.bits, sample.extras) == ("unsigned", 8, ()):
            continue
        path.write_bytes(sample.content)
        metadata = None
        try:
            metadata = inspect(ImageFile(str(path)))
        except BadImageError as error:
            reason = error.reason
        for channels in sorted({1, 3, sample.samples.shape[2]}):
            wanted, name = expected(sample, channels), f"{sample} as {channels}"
            if metadata is not None:
                low, high = (metadata.low, metadata.high) if metadata.high > metadata.low else (0.0, 1.0)
                reason = why_not(metadata, PixelFormat(channels=channels, depth="float", low=low, high=high))
            if isinstance(wanted, str):
                assert wanted in reason, name
                with pytest.raises(BadImageError, match=wanted):
                    read_unscaled(path, channels)
                with pytest.raises(BadImageError, match=wanted):
                    rows_of(path, channels)
                continue
            assert reason == "", name
            check(read_unscaled(path, channels), wanted, sample, name)
            check(rows_of(path, channels), wanted, sample, f"{name} by rows")
            read_well += 1
    assert read_well > 100 or photometric in ("ycbcr", "palette", "cmyk")


def rows_of(path: Path, channels: int, height: int = HEIGHT) -> np.ndarray:
    rows = TiffRows(path, channels)
    try:
        return np.concatenate([rows.pixels(0, 2), rows.pixels(2, height)])
    finally:
        rows.close()


@needs_deep
@pytest.mark.parametrize(("compression", "layout", "predictor"), COMPRESSED, ids=str)
def test_compressions(tmp_path: Path, compression: str, layout: dict[str, Any], predictor: bool) -> None:
    import tifffile

    pixels = np.random.default_rng(0).integers(0, 256, (33, 40, 3), dtype=np.uint8)
    pixels = np.sort(np.sort(pixels, axis=0), axis=1)  # smooth, for those with loss
    planar = "planarconfig" in layout
    stored = np.moveaxis(pixels, -1, 0) if planar else pixels
    options = {"photometric": "rgb", "compression": compression, "predictor": predictor, "metadata": None}
    if compression in ("webp", "jpeg2000"):
        options["compressionargs"] = {"level": 100} if compression == "webp" else {"reversible": True}
    tifffile.imwrite(tmp_path / "x.tif", np.ascontiguousarray(stored), **options, **layout)
    whole, rows = read_unscaled(tmp_path / "x.tif", 3), rows_of(tmp_path / "x.tif", 3, 33)
    if compression in ("jpeg", "webp"):  # with loss, and chroma that is interpolated in more than one way
        assert np.abs(whole.astype(int) - pixels).mean() <= 4 and np.abs(rows.astype(int) - whole).max() <= 12
    else:
        assert np.array_equal(whole, pixels) and np.array_equal(rows, pixels)
    assert inspect(ImageFile(str(tmp_path / "x.tif"))).size == (40, 33)


@needs_deep
@pytest.mark.parametrize("bits", [1, 8, 16])
def test_bits_in_reversed_order(tmp_path: Path, bits: int) -> None:
    samples = np.random.default_rng(0).integers(0, 1 << bits, (HEIGHT, WIDTH, 1))
    content = bytearray(tiff(samples, bits, "black"))
    at = content.index(np.array([277, 3, 1, 0], "<u2").tobytes())  # the channels, which stand for the order here
    content[at : at + 12] = np.array([266, 3, 1, 0, 2, 0], "<u2").tobytes()
    end = 8 + HEIGHT * -(-WIDTH * bits // 8)
    content[8:end] = [int(f"{byte:08b}"[::-1], 2) for byte in content[8:end]]
    (tmp_path / "x.tif").write_bytes(content)
    try:
        made = read_unscaled(tmp_path / "x.tif", 1)
    except BadImageError as error:  # tifffile knows no such files of 16 bits
        assert "\n" not in error.reason
    else:
        assert np.array_equal(made, samples * ((255 if bits <= 8 else 65535) // ((1 << bits) - 1)))


@needs_deep
def test_ycbcr_of_8_bits_is_read_as_a_whole(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(60, 190, (HEIGHT, WIDTH, 3))
    (tmp_path / "x.tif").write_bytes(tiff(samples, 8, "ycbcr"))
    y, cb, cr = np.moveaxis(samples.astype(float), -1, 0)
    rgb = np.stack(
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)], -1
    )
    assert np.abs(read_unscaled(tmp_path / "x.tif", 3) - rgb.clip(0, 255)).max() <= 1.5
    with pytest.raises(BadImageError, match="8-bit YCBCR: there is no rule for it"):
        rows_of(tmp_path / "x.tif", 3)


@needs_deep
def test_lab_of_8_bits_is_read_as_a_whole(tmp_path: Path) -> None:
    samples = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    samples[..., 0] = np.rint(53.585 * 2.55)  # L* of mid-grey
    (tmp_path / "x.tif").write_bytes(tiff(samples, 8, "lab"))
    assert np.abs(read_unscaled(tmp_path / "x.tif", 3).astype(int) - 128).max() <= 2
    with pytest.raises(BadImageError, match="8-bit CIELAB: there is no rule for it"):
        rows_of(tmp_path / "x.tif", 3)


@needs_deep
def test_contradictions_are_refused(tmp_path: Path) -> None:
    samples = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    unsigned, complex_samples = (np.array([339, 3, 1, 0, kind], "<u2").tobytes() for kind in (1, 6))
    for name, content, reason in (
        ("lab 16", tiff(samples, 16, "lab"), "16-bit CIELAB: there is no rule"),
        ("rgb of two", tiff(samples[..., :2], 8, "rgb"), "contradicts itself"),
        ("palette of none", tiff(samples[..., :1], 8, "palette"), "palette"),
        ("palette too short", tiff(samples[..., :1], 8, "palette", colours=np.zeros((9, 3), np.uint16)), "palette"),
        ("mixed bits", tiff(samples, 8, "rgb").replace(bytes([8, 0] * 3), bytes([5, 0, 6, 0, 5, 0])), "different bits"),
        ("complex", tiff(samples[..., :1], 64, "black").replace(unsigned, complex_samples), "complex numbers"),
    ):  # fmt: skip
        (tmp_path / "x.tif").write_bytes(content)
        with pytest.raises(BadImageError, match=reason) as error:
            read_unscaled(tmp_path / "x.tif", 3)
        assert "\n" not in str(error.value), name
        with pytest.raises(BadImageError):
            inspect(ImageFile(str(tmp_path / "x.tif")))


@needs_deep
@pytest.mark.parametrize("depth", ["8", "16", "float"])
def test_every_depth_of_a_domain_takes_12_bits(tmp_path: Path, depth: Any) -> None:
    samples = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH, 1))
    samples[0, 0] = 4095
    (tmp_path / "x.tif").write_bytes(tiff(samples, 12, "white"))
    share = 1 - samples / 4095
    made = read(tmp_path / "x.tif", PixelFormat(channels=1, depth=depth, low=0.0, high=65535.0))
    if depth == "float":
        assert np.abs((made + 1) / 2 - share).max() < 1e-5
    else:
        assert np.abs(made - share * (255 if depth == "8" else 65535)).max() <= 0.51
