"""Which files DALI may decode: those that leave a decoder no choice.

Decoders agree on an 8-bit grey or YCbCr JPEG and on an 8-bit grey or RGB PNG, and on little else: alpha, palettes,
16 bits, CMYK, animation and damage are each handled in their own way. Those are for `decode.read` and its one rule.
"""

from __future__ import annotations

import io
import zlib

from PIL import Image

from cyclegan_fast.data.transforms import Size

_EXIF_ORIENTATION = 0x0112
_PNG_START = b"\x89PNG\r\n\x1a\n"
_YCBCR_IDS = (1, 2, 3)  # of a JPEG's components, by the JFIF standard
# Chunks of a PNG that say nothing about its pixels, or what is ignored here: colour profiles and gamma.
_PNG_CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"pHYs", b"bKGD", b"tIME"}
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_PNG_METADATA = (b"Raw profile type", b"XML:com.adobe.xmp")  # texts that may hold an orientation


def decodable_size(content: bytes) -> Size | None:
    """Returns the upright width and height of an image that DALI may decode, from its headers; None for any other.

    A JPEG must be whole as far as its last two bytes tell; a PNG's checksums are verified. Damage inside a JPEG is
    not found here.
    """
    if content.startswith(_PNG_START):
        kind = "PNG"
        if not _is_decodable_png(content):
            return None
    elif content.startswith(b"\xff\xd8\xff") and content.endswith(b"\xff\xd9"):
        kind = "JPEG"
    else:
        return None
    try:
        with Image.open(io.BytesIO(content), formats=(kind,)) as image:  # refuses bombs, and what it does not know
            if kind == "PNG":
                return image.size
            return _jpeg_size(image)
    except Exception:  # whatever it is, it is not for DALI
        return None


def _jpeg_size(image: Image.Image) -> Size | None:
    if image.format != "JPEG" or image.mode not in ("L", "RGB"):  # it may be MPO, or CMYK
        return None
    if image.mode == "RGB":
        ids = tuple(component[0] for component in image.layer)  # type: ignore[attr-defined]
        if ids != _YCBCR_IDS or image.info.get("adobe_transform", 1) != 1:  # RGB without a transform, say
            return None
    if b"tiff:Orientation" in image.info.get("xmp", b""):  # Pillow turns by this, others do not
        return None
    width, height = image.size
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1) if "exif" in image.info else 1
    if orientation not in range(1, 9):
        return None
    return (width, height) if orientation < 5 else (height, width)


def _is_decodable_png(content: bytes) -> bool:
    """Whether a PNG is 8-bit grey or RGB, not interlaced, whole, and holds nothing that changes its pixels."""
    depth, color, _, _, interlace = content[24:29].ljust(5, b"\0")
    if depth != 8 or color not in (0, 2) or interlace:
        return False
    view, at, kind = memoryview(content), len(_PNG_START), b""
    while kind != b"IEND":
        length = int.from_bytes(view[at : at + 4], "big")
        kind, end = bytes(view[at + 4 : at + 8]), at + 8 + length
        if zlib.crc32(view[at + 4 : end]).to_bytes(4, "big") != view[end : end + 4]:  # damaged, or cut
            return False
        if kind in _PNG_TEXTS:
            if view[at + 8 : end].tobytes().startswith(_PNG_METADATA):
                return False
        elif kind not in _PNG_CHUNKS:
            return False
        at = end + 4
    return True
