"""Where on the earth the pixels of a GeoTIFF lie, after its size has changed.

The tags relate coordinates of the raster to those of the ground: a pixel size and tie points, or a matrix. With
PixelIsArea, the default, a raster coordinate is the corner of a pixel and grows with the size; with PixelIsPoint it is
the middle of one, half a pixel off.
"""

from __future__ import annotations

import re

import numpy as np

from cyclegan_fast.images.metadata.exif import GDAL_METADATA, GEOREFERENCE
from cyclegan_fast.images.metadata.model import Change, Metadata, note
from cyclegan_fast.images.metadata.tags import DOUBLE, SHORT, TEXT, Tag

PIXEL_SCALE, TIE_POINTS, MATRIX, KEYS, _DOUBLES, _TEXTS, RPC = GEOREFERENCE
_TYPES = {KEYS: SHORT, _TEXTS: TEXT}  # others are doubles
_COUNTS = {PIXEL_SCALE: 3, TIE_POINTS: 6, MATRIX: 16, RPC: 92}  # numbers, or a multiple of so many tie points
_RASTER_TYPE, _IS_POINT = 1025, 2

TURNED = "georeference of an image that its orientation tag turns"
RESIZED = "rational polynomial coefficients of an image whose size changes"
OF_BANDS = "GDAL's statistics, scales and names of single bands, which are the input's"
DAMAGED = "georeference: damaged"


def adapt(metadata: Metadata, change: Change) -> None:
    """Lets the georeference place the result's pixels, and drops what holds for the input's alone."""
    tags = metadata.directory.tags
    if GDAL_METADATA in tags:
        _drop_bands(metadata)
    if not tags.keys() & GEOREFERENCE:
        return
    if not _is_sound(metadata):
        _drop(metadata, DAMAGED)
    elif metadata.is_turned:
        _drop(metadata, TURNED)
    elif change.scale != (1.0, 1.0):
        if tags.pop(RPC, None):
            note(metadata.lost, RESIZED)
        _rescale(metadata, *change.scale)


def _drop(metadata: Metadata, reason: str) -> None:
    for code in GEOREFERENCE:
        metadata.directory.tags.pop(code, None)
    note(metadata.lost, reason)


def _is_sound(metadata: Metadata) -> bool:
    """Whether each tag has the type and count that it must have."""
    tags = metadata.directory.tags
    for code in tags.keys() & GEOREFERENCE:
        tag, count = tags[code], _COUNTS.get(code)
        if tag.kind != _TYPES.get(code, DOUBLE) or not tag.length:
            return False
        if count and (tag.length % count or (tag.length != count and code != TIE_POINTS)):
            return False
    keys = _keys(metadata)
    return not keys or (len(keys) >= 4 and len(keys) >= 4 + 4 * keys[3])


def _keys(metadata: Metadata) -> list[int]:
    tag = metadata.directory.tags.get(KEYS)
    return [int(number) for number in tag.numbers(metadata.order)] if tag else []


def _rescale(metadata: Metadata, across: float, down: float) -> None:
    """Enters the size of the new pixels; `across` and `down` of them lie where one lay."""
    keys = _keys(metadata)
    is_point = (_RASTER_TYPE, 0, 1, _IS_POINT) in zip(keys[4::4], keys[5::4], keys[6::4], keys[7::4], strict=False)
    middle = 0.5 if is_point else 0.0  # of a pixel, from where raster coordinates count
    factors = np.array([across, down])
    if (scale := _numbers(metadata, PIXEL_SCALE)) is not None:
        scale[:2] /= factors
        _store(metadata, PIXEL_SCALE, scale)
    if (points := _numbers(metadata, TIE_POINTS)) is not None:
        points = points.reshape(-1, 6)  # I, J, K of the raster; X, Y, Z of the ground
        points[:, :2] = (points[:, :2] + middle) * factors - middle
        _store(metadata, TIE_POINTS, points)
    if (matrix := _numbers(metadata, MATRIX)) is not None:
        to_old = np.diag([1 / across, 1 / down, 1.0, 1.0])  # raster coordinates of the input, of those of the result
        to_old[:2, 3] = middle / factors - middle
        _store(metadata, MATRIX, matrix.reshape(4, 4) @ to_old)


def _numbers(metadata: Metadata, code: int) -> np.ndarray | None:
    tag = metadata.directory.tags.get(code)
    return np.array(tag.numbers(metadata.order)) if tag else None


def _store(metadata: Metadata, code: int, numbers: np.ndarray) -> None:
    metadata.directory.tags[code] = Tag(DOUBLE, numbers.astype(metadata.order + "f8").tobytes())


def _drop_bands(metadata: Metadata) -> None:
    """Drops GDAL's metadata of single bands; those of the image stay."""
    tag = metadata.directory.tags[GDAL_METADATA]
    kept = re.sub(rb"\s?<Item\b([^<>]*)>(?:[^<]*</Item>)?", _unless_of_band, tag.data)
    if kept == tag.data:
        return
    note(metadata.by_rule, OF_BANDS)
    metadata.directory.tags[GDAL_METADATA] = Tag(tag.kind, kept)
    if b"<Item" not in kept:
        del metadata.directory.tags[GDAL_METADATA]


def _unless_of_band(item: re.Match[bytes]) -> bytes:
    return b"" if re.search(rb"\bsample\s*=", item[1]) else item[0]
