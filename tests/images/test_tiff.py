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
from cyclegan_fast.images.decode import read_unscaled
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


def rows_of(path: Path, channels: int) -> np.ndarray:
    rows = TiffRows(path, channels)
    try:
        return np.concatenate([rows.pixels(0, 2), rows.pixels(2, HEIGHT)])
    finally:
        rows.close()
