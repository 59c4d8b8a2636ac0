"""XMP: a text that describes the image; what it holds about the input's pixels is entered anew."""

from __future__ import annotations

import re

from cyclegan_fast.images.metadata.model import Change, Metadata, note

# Marks of thumbnails, and of further data in the file: more XMP, images of depth, gain maps, videos.
_OTHER_PARTS = re.compile(
    rb"xmpGImg:image|HasExtendedXMP|Container:Directory|GContainer|MicroVideo|MotionPhoto|GDepth:|hdrgm:|GImage:"
)
OF_PARTS = "XMP with a thumbnail, or about other parts of the file than the image"


def orientation_of(xmp: bytes) -> int:
    """The orientation that Pillow turns an image by, as in EXIF, where its EXIF has none."""
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    return int(found[1]) if found else 1


def adapt(metadata: Metadata, change: Change) -> None:
    """Makes it upright and of the result's size, or drops it."""
    if not metadata.xmp:
        return
    if b"<" not in metadata.xmp or b"\0" in metadata.xmp.rstrip(b"\0"):
        metadata.xmp = b""
        note(metadata.lost, "XMP: damaged")
    elif _OTHER_PARTS.search(metadata.xmp):
        metadata.xmp = b""
        note(metadata.by_rule, OF_PARTS)
    else:
        width, height = change.output_size
        for name, value in {"tiff:Orientation": 1, "tiff:ImageWidth": width, "tiff:ImageLength": height}.items():
            metadata.xmp = _entered(metadata.xmp, name, value)
        for name, value in {"exif:PixelXDimension": width, "exif:PixelYDimension": height}.items():
            metadata.xmp = _entered(metadata.xmp, name, value)


def _entered(xmp: bytes, name: str, value: int) -> bytes:
    """The text with another value of a number, as an attribute or an element."""
    return re.sub(rf"({name}(?:\s*=\s*[\"']|>))\d+".encode(), rf"\g<1>{value}".encode(), xmp)
