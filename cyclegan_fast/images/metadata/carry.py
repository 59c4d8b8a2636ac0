"""What a result keeps of the metadata of its input.

The rule, by what it is about:

- the image (EXIF, XMP, IPTC, texts; resolution): kept. It is entered anew where the translation changes it: orientation
  1, as results are upright, and the result's size. The resolution grows with the size, so that the print does not;
- the meaning of the numbers (colour profile): kept where the result has as many colours as the profile is about. A
  network maps numbers to numbers, and profiles are ignored in reading, here as in training;
- the place on the earth (GeoTIFF): kept, with the size of the new pixels;
- the pixels of the input, or the input's file (thumbnails, maker notes, layouts such as OME-XML, statistics): left out.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from cyclegan_fast.images.image_file import ImageFile, as_image_file
from cyclegan_fast.images.metadata import exif, georeference, nodata, xmp
from cyclegan_fast.images.metadata.exif import GDAL_METADATA, IPTC, OF_GEOTIFF, PROFILE, XMP
from cyclegan_fast.images.metadata.jpeg import read_jpeg, write_jpeg
from cyclegan_fast.images.metadata.model import Change, Metadata, MetadataRules, Resolution, checked_resolution, note
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
DAMAGED = "metadata: damaged"
_CHANNELS = {b"GRAY": (1, 2), b"RGB ": (3, 4)}  # by the colours that a profile is about


def metadata_for(source: ImageFile | Path, rules: MetadataRules) -> Metadata:
    """Reads what the result of an image file may keep of its metadata; what is damaged is left out, and named."""
    if rules.which == "none":
        return Metadata()
    metadata = Metadata()
    try:
        metadata = read_metadata(source)
        if rules.which == "technical":
            _drop_what_is_personal(metadata)
    except Exception as error:  # the image is worth more than its metadata
        log.debug("%s", source, exc_info=error)
        note(metadata.lost, DAMAGED)
    return metadata


def carry_over(content: bytes, kind: str, metadata: Metadata, change: Change, rules: MetadataRules) -> bytes:
    """Puts the metadata of an image into the bytes of its result.

    Args:
        content: The encoded result.
        kind: Its format.
        metadata: By `metadata_for`, which becomes the result's, and holds then what is not among it.
        change: What the translation changes.
        rules: What is kept.
    """
    _make_ready(metadata, kind, change, rules)
    try:
        return _embedded(content, kind, metadata, change)
    except Exception as error:
        log.debug("metadata", exc_info=error)
        note(metadata.lost, DAMAGED)
        return content


def carry_into_tiff(path: Path, metadata: Metadata, change: Change, rules: MetadataRules) -> None:
    """Puts the metadata of an image into a TIFF of one page that is its result; see `carry_over`.

    Raises:
        OSError: The disk is full, or the like.
    """
    _make_ready(metadata, "TIFF", change, rules)
    with path.open("r+b") as file:
        _write_tiff(file, metadata)


def _make_ready(metadata: Metadata, kind: str, change: Change, rules: MetadataRules) -> None:
    """Makes the metadata of an input that of its result in a format."""
    try:
        _adapt(metadata, change, rules)
        _drop_what_has_no_room(metadata, kind)
    except Exception as error:
        log.debug("metadata", exc_info=error)
        metadata.forget()
        note(metadata.lost, DAMAGED)


def read_metadata(source: ImageFile | Path) -> Metadata:
    """Reads the metadata of an image file, within limits; what is damaged is left out, and named."""
    metadata = Metadata()
    try:
        with as_image_file(source).open() as file:
            start = file.read(8)
            file.seek(0)
            for signature, read in _READERS:
                if start.startswith(signature):
                    read(file, metadata)
                    break
    except (ValueError, TypeError, LookupError, struct.error, OSError) as error:
        log.debug("%s", source, exc_info=error)
        note(metadata.lost, DAMAGED)
    if metadata.profile and not is_profile(metadata.profile):
        metadata.profile = b""
        note(metadata.lost, "a colour profile: damaged")
    if metadata.samples is None:  # no TIFF, which its own tag turns alone
        metadata.orientation = metadata.orientation or xmp.orientation_of(metadata.xmp)
    return metadata


def _adapt(metadata: Metadata, change: Change, rules: MetadataRules) -> None:
    """Makes metadata of the input that of the result, whatever its format."""
    if rules.profile is not None:
        metadata.profile = rules.profile
        metadata.colour_chunks.clear()
        exif.drop_colours(metadata)
    if rules.nodata == "drop":
        metadata.directory.tags.pop(exif.GDAL_NODATA, None)
    nodata.drop_unless_restored(metadata)
    georeference.adapt(metadata, change)
    exif.adapt(metadata, change)
    xmp.adapt(metadata, change)
    if metadata.profile and not profile_fits(metadata.profile, change.channels):
        metadata.profile = b""
        exif.drop_colours(metadata)
        note(metadata.lost, "a colour profile of other colours than the result's")
    if metadata.colour_chunks and metadata.is_grey != (change.channels in (1, 2)):
        metadata.colour_chunks.clear()
        note(metadata.lost, "the colour chunks of a PNG of other colours than the result's")
    if metadata.resolution:
        _rescale(metadata, metadata.resolution, *change.scale)


def _rescale(metadata: Metadata, resolution: Resolution, across: float, down: float) -> None:
    """Lets the resolution turn with the image, and grow with its size."""
    x, y = resolution[:2] if metadata.orientation < 5 else resolution[1::-1]
    metadata.resolution = checked_resolution(x * across, y * down, resolution.unit)
    if metadata.resolution is None and resolution.unit:
        note(metadata.lost, "a resolution that no format can hold")


def _drop_what_is_personal(metadata: Metadata) -> None:
    """Leaves what places and shows the pixels; nothing is reported, as that is what was asked for."""
    technical = OF_GEOTIFF - {GDAL_METADATA}  # which holds whatever texts its author wanted
    tags = {code: tag for code, tag in metadata.directory.tags.items() if code in technical}
    metadata.directory = Directory(tags)
    metadata.xmp = metadata.iptc = metadata.comment = b""
    metadata.texts.clear()
    metadata.by_rule.clear()


def _drop_what_has_no_room(metadata: Metadata, kind: str) -> None:
    tags = metadata.directory.tags
    if kind != "TIFF":
        geo = tags.keys() & OF_GEOTIFF
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


def profile_fits(profile: bytes, channels: int) -> bool:
    """Whether a colour profile is about images of so many channels."""
    return is_profile(profile) and channels in _CHANNELS.get(profile[16:20], ())


def is_profile(content: bytes) -> bool:
    """Whether bytes may be a profile of ICC, by its header."""
    return len(content) >= 128 and content[36:40] == b"acsp" and int.from_bytes(content[:4], "big") <= len(content)
