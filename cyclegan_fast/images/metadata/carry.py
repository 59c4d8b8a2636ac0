"""What a result keeps of the metadata of its input.

The rule, by what it is about:

- the image (EXIF, XMP, IPTC, texts; resolution): kept. It is entered anew where the translation changes it: orientation
  1, as results are upright, and the result's size. The resolution grows with the size, so that the print does not;
- the meaning of the numbers (colour profile): kept where the result has as many colours as the profile is about. A
  network maps numbers to numbers, and profiles are ignored in reading, here as in training;
- the place on the earth (GeoTIFF): kept, with the size of the new pixels;
- the pixels of the input, or the input's file (thumbnails, maker notes, layouts such as OME-XML, nodata, statistics):
  left out.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from cyclegan_fast.images.metadata import exif, georeference, xmp
from cyclegan_fast.images.metadata.exif import GDAL_METADATA, GEOREFERENCE, IPTC, PROFILE, XMP, note
from cyclegan_fast.images.metadata.jpeg import read_jpeg, write_jpeg
from cyclegan_fast.images.metadata.model import Change, LeftOut, Metadata, MetadataRule
from cyclegan_fast.images.metadata.png import read_png, write_png
from cyclegan_fast.images.metadata.small import read_bmp, read_gif, write_bmp, write_gif
from cyclegan_fast.images.metadata.tags import BYTES, UNDEFINED, Directory, Tag, add_tags
from cyclegan_fast.images.metadata.webp import read_webp, write_webp

log = logging.getLogger(__name__)

_READERS: tuple[tuple[bytes, Callable[[BinaryIO, Metadata], None]], ...] = (
    (b"\xff\xd8\xff", read_jpeg),
    (b"\x89PNG\r\n\x1a\n", read_png),
    (b"II", exif.read_tiff),
    (b"MM", exif.read_tiff),
    (b"RIFF", read_webp),
    (b"BM", read_bmp),
    (b"GIF8", read_gif),
)
_NAMES = {  # of what a format may hold
    "profile": "a colour profile",
    "colour_chunks": "the colour chunks of a PNG",
    "resolution": "the resolution",
    "directory": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "texts": "texts of a PNG",
    "comment": "a comment",
}
_HELD = {
    "JPEG": {"profile", "resolution", "directory", "xmp", "iptc", "comment"},
    "PNG": {"profile", "colour_chunks", "resolution", "directory", "xmp", "texts"},
    "WEBP": {"profile", "resolution", "directory", "xmp"},
    "TIFF": {"profile", "resolution", "directory", "xmp", "iptc"},
    "BMP": {"resolution"},
    "GIF": {"comment"},
}
_CHANNELS = {b"GRAY": (1, 2), b"RGB ": (3, 4)}  # by the colours that a profile is about


def carry_over(content: bytes, kind: str, source: Path, change: Change, rule: MetadataRule) -> tuple[bytes, LeftOut]:
    """Puts the metadata of an image file into the bytes of its result.

    Args:
        content: The encoded result.
        kind: Its format.
        source: The input.
        change: What the translation changes.
        rule: "keep", "technical" (colour profile, resolution, georeference), or "none".

    Returns:
        The bytes with the metadata, and what is not among it. Damaged metadata is left out.
    """
    metadata = _carried(source, kind, change, rule)
    try:
        content = _embedded(content, kind, metadata, change)
    except Exception as error:  # the image is worth more than its metadata
        _give_up(metadata, source, error)
    return content, metadata.left_out


def carry_into_tiff(path: Path, source: Path, change: Change, rule: MetadataRule) -> LeftOut:
    """Puts the metadata of an image file into a TIFF of one page that is its result; see `carry_over`.

    Raises:
        OSError: The disk is full, or the like.
    """
    metadata = _carried(source, "TIFF", change, rule)
    with path.open("r+b") as file:
        _write_tiff(file, metadata)
    return metadata.left_out


def _carried(source: Path, kind: str, change: Change, rule: MetadataRule) -> Metadata:
    """What a result has of the metadata of a file, and what it lacks."""
    if rule == "none":
        return Metadata()
    metadata = Metadata()
    try:
        metadata = read_metadata(source)
        _adapt(metadata, change, rule)
        _drop_what_has_no_room(metadata, kind)
    except Exception as error:
        metadata = Metadata(lost=metadata.lost)
        _give_up(metadata, source, error)
    return metadata


def _give_up(metadata: Metadata, source: Path, error: Exception) -> None:
    log.debug("%s", source, exc_info=error)
    note(metadata.lost, "metadata: damaged")


def read_metadata(source: Path) -> Metadata:
    """Reads the metadata of an image file, within limits; what is damaged is left out, and named."""
    metadata = Metadata()
    try:
        with source.open("rb") as file:
            start = file.read(8)
            file.seek(0)
            for signature, read in _READERS:
                if start.startswith(signature):
                    read(file, metadata)
                    break
    except (ValueError, TypeError, LookupError, struct.error, OSError):
        note(metadata.lost, "metadata: damaged")
    if metadata.profile and not _is_profile(metadata.profile):
        metadata.profile = b""
        note(metadata.lost, "a colour profile: damaged")
    metadata.orientation = metadata.orientation or xmp.orientation_of(metadata.xmp)
    return metadata


def _adapt(metadata: Metadata, change: Change, rule: MetadataRule) -> None:
    """Makes metadata of the input that of the result."""
    if rule == "technical":
        _drop_what_is_personal(metadata)
    georeference.adapt(metadata, change)
    exif.adapt(metadata, change)
    xmp.adapt(metadata, change)
    if metadata.profile and change.channels not in _CHANNELS.get(metadata.profile[16:20], ()):
        metadata.profile = b""
        note(metadata.lost, "a colour profile of other colours than the result's")
    if metadata.colour_chunks and metadata.is_grey != (change.channels in (1, 2)):
        metadata.colour_chunks.clear()
        note(metadata.lost, "the colour chunks of a PNG of other colours than the result's")
    if metadata.resolution:
        x, y = metadata.resolution[:2] if metadata.orientation < 5 else metadata.resolution[1::-1]
        metadata.resolution = metadata.resolution._replace(x=x * change.scale[0], y=y * change.scale[1])


def _drop_what_is_personal(metadata: Metadata) -> None:
    """Leaves what places and shows the pixels; nothing is reported, as that is what was asked for."""
    technical = {*GEOREFERENCE, GDAL_METADATA, exif.GDAL_NODATA}
    tags = {code: tag for code, tag in metadata.directory.tags.items() if code in technical}
    metadata.directory = Directory(tags)
    metadata.xmp = metadata.iptc = metadata.comment = b""
    metadata.texts.clear()
    metadata.by_rule.clear()


def _drop_what_has_no_room(metadata: Metadata, kind: str) -> None:
    tags = metadata.directory.tags
    if kind != "TIFF":
        geo = tags.keys() & {*GEOREFERENCE, GDAL_METADATA}
        for code in geo:
            del tags[code]
        if geo:
            note(metadata.lost, f"the georeference, which {kind} cannot hold")
    for name, text in _NAMES.items():
        value = getattr(metadata, name)
        if value and name not in _HELD.get(kind, ()):
            setattr(metadata, name, type(value)() if name != "resolution" else None)
            if not (name == "colour_chunks" and b"sRGB" in value):  # which is what is taken where nothing is said
                note(metadata.lost, f"{text}, which {kind} cannot hold")


def _embedded(content: bytes, kind: str, metadata: Metadata, change: Change) -> bytes:
    """The bytes of an encoded image with metadata that its format can hold."""
    match kind:
        case "JPEG":
            return write_jpeg(content, metadata)
        case "PNG":
            return write_png(content, metadata)
        case "WEBP":
            return write_webp(content, metadata, change)
        case "BMP":
            return write_bmp(content, metadata)
        case "GIF":
            return write_gif(content, metadata)
        case "TIFF":
            file = io.BytesIO(content)
            _write_tiff(file, metadata)
            return file.getvalue()
    return content


def _write_tiff(file: BinaryIO, metadata: Metadata) -> None:
    found = exif.upright_tags(metadata)
    for code, kind, block in (
        (PROFILE, UNDEFINED, metadata.profile),
        (XMP, BYTES, metadata.xmp),
        (IPTC, UNDEFINED, metadata.iptc),
    ):
        if block:
            found.tags[code] = Tag(kind, block)
    if found:
        add_tags(file, found, metadata.order)


def _is_profile(content: bytes) -> bool:
    """Whether bytes may be a profile of ICC, by its header."""
    return len(content) >= 128 and content[36:40] == b"acsp" and int.from_bytes(content[:4], "big") <= len(content)
