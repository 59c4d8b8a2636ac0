"""TIFF: which kinds Pillow reads rightly, and the rules for all others, which tifffile reads.

Pillow clips, negates or darkens many kinds without a warning, so that only a list of known ones is left to it.
Whole numbers of other than 8, 16, 32 or 64 bits are brought to the full range of 8 or 16 bits.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from cyclegan_fast.config import Depth
from cyclegan_fast.images.channels import StoredImage
from cyclegan_fast.images.packages import import_package

_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big endian; with 32-bit and with 64-bit offsets
# Tags.
_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _CHANNELS, _PLANES = 258, 259, 262, 274, 277, 284
_COLORMAP, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 320, 338, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8  # photometric
_JPEG, _WEBP = 7, 50001  # compressions
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # sample formats
_ALPHA = {1: "premultiplied", 2: "straight"}  # kinds of extra samples; others are channels like any
# Photometric kinds, channels and extra samples of 8 bits, stored pixel by pixel.
_PILLOW_COLOURS = {
    (_BLACK_IS_ZERO, 2, (2,)),
    (_RGB, 3, ()),
    (_RGB, 4, (2,)),
    (_CMYK, 4, ()),
    (_YCBCR, 3, ()),
    (_LAB, 3, ()),
}


class BeyondPillow(NamedTuple):
    """What Pillow's header reveals of an image whose pixels it would not give whole."""

    channels: int
    depth: Depth
    package: str
    """What reads it; empty where nothing but Pillow is needed."""
    wrong_in_pillow: bool = False
    """Whether what Pillow gives is wrong, not just the high byte of 16 bits or without the further channels."""
    is_image: bool = True
    """Whether grey or RGB can be made of it."""


class _Kind(NamedTuple):
    """The pixels of a page, by its tags."""

    photometric: int
    channels: int
    extras: tuple[int, ...]
    sample_format: int  # 0 for several
    bits: int  # of its deepest channel

    def is_exact_in_pillow(self, planes: int) -> bool:
        """Whether Pillow gives all of it, as it is."""
        if planes != 1:  # of a single channel of few bits, too, which it reads as bytes
            return self == (_RGB, 3, (), _UNSIGNED, 8)
        if self.sample_format != _UNSIGNED:
            return self[:3] == (_BLACK_IS_ZERO, 1, ()) and self.bits == 32 and self.sample_format in (_SIGNED, _FLOAT)
        if self[:3] == (_BLACK_IS_ZERO, 1, ()) and self.bits == 16:
            return True
        if self[:3] in ((_WHITE_IS_ZERO, 1, ()), (_BLACK_IS_ZERO, 1, ()), (_PALETTE, 1, ())):
            return self.bits in (1, 2, 4, 8)
        return self.bits == 8 and self[:3] in _PILLOW_COLOURS

    @property
    def is_partial_in_pillow(self) -> bool:
        """Whether Pillow gives the high bytes of its colours, or all of them without the further channels."""
        extras = {8: ((0,), (0, 0), (0, 0, 0), (1,)), 16: ((), (0,), (1,), (2,))}.get(self.bits, ())
        return self[:2] == (_RGB, 3 + len(self.extras)) and self.sample_format == _UNSIGNED and self.extras in extras


def tiff_beyond_pillow(image: Image.Image) -> BeyondPillow | None:
    """What Pillow would keep back of a TIFF of which only the header has been read; None if nothing."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    formats, bits = set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))), set(tags.get(_BITS, (1,)))
    channels, planes = tags.get(_CHANNELS, 1), tags.get(_PLANES, 1)
    extras = tuple(tags.get(_EXTRA_SAMPLES, ()))
    kind = _Kind(tags.get(_PHOTOMETRIC, 0), channels, extras, formats.pop() if len(formats) == 1 else 0, max(bits))
    whole_palette = len(tags.get(_COLORMAP, ())) in (0, 3 << max(bits))
    has_codec = tags.get(_COMPRESSION, 1) != _WEBP  # not in the libtiff that comes with Pillow
    in_pillow = len(bits) == 1 and has_codec and whole_palette
    if in_pillow and kind.is_exact_in_pillow(planes):
        return None
    unsigned = kind.sample_format == _UNSIGNED
    depth: Depth = "float" if not unsigned or kind.bits > 16 else "16" if kind.bits > 8 else "8"
    is_image = (
        channels == 1
        or kind.photometric in (_RGB, _CMYK, _PALETTE, _YCBCR)
        or (channels == 2 and extras[:1] in ((1,), (2,)))
    )
    near = in_pillow and planes == 1 and kind.is_partial_in_pillow
    return BeyondPillow(channels, depth, "tifffile", not near, is_image)


def is_tiff(file: BinaryIO) -> bool:
    """Whether the bytes are a TIFF, whether or not Pillow knows its kind."""
    file.seek(0)
    return file.read(4) in _STARTS


def load_tiff(file: BinaryIO) -> StoredImage:
    """Reads the first page of a TIFF by tifffile.

    Raises:
        MissingPackageError: It is missing.
        ValueError: There is no rule for such an image.
        DecompressionBombError: It has too many pixels.
    """
    file.seek(0)
    with import_package("tifffile").TiffFile(file) as opened:
        page = opened.pages[0]
        if page.imagewidth * page.imagelength > 2 * (Image.MAX_IMAGE_PIXELS or float("inf")):
            raise Image.DecompressionBombError(f"{page.imagewidth}x{page.imagelength} pixels")
        check_page(page)
        pixels = page.asarray().reshape(stored_shape(page))
        pixels = np.moveaxis(pixels, 0, -1) if page.planarconfig != 1 and page.samplesperpixel > 1 else pixels
        return page_image(page, pixels)._replace(pages=len(opened.pages))


def stored_shape(page: Any) -> tuple[int, int, int]:
    """[H, W, C] of a page, or [C, H, W] where its channels are stored one after the other."""
    height, width, channels = page.imagelength, page.imagewidth, page.samplesperpixel
    return (channels, height, width) if page.planarconfig != 1 and channels > 1 else (height, width, channels)


def check_page(page: Any) -> None:
    """Refuses a page of a TIFF for which there is no rule.

    Raises:
        ValueError: There is no rule for it.
    """
    photometric, channels = _photometric(page), page.samplesperpixel
    if page.imagedepth > 1:
        raise ValueError("a TIFF of a volume: give its slices, one image each")
    if page.dtype is None or page.dtype.kind not in "buif" or not isinstance(page.bitspersample, int):
        raise ValueError("a TIFF of complex numbers, or of channels of different bits: there is no rule for it")
    if page.dtype.kind in "ui" and _bits(page) > 16 and _bits(page) not in (32, 64):
        raise ValueError(f"a TIFF of {_bits(page)} bits: there is no rule for it; convert it to 16 or 32 bits")
    has_rule = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK)
    if not has_rule or (photometric in (_PALETTE, _CMYK) and page.dtype.kind == "u" and _bits(page) > 16):
        raise ValueError(f"a TIFF of {_bits(page)}-bit {_name(page)}: there is no rule for it; convert it to RGB")
    if page.dtype.kind not in "bu" and photometric in (_WHITE_IS_ZERO, _PALETTE, _CMYK):
        raise ValueError(f"a TIFF of {_name(page)} pixels must hold unsigned whole numbers, and it has {page.dtype}")
    if channels - len(page.extrasamples) < {_RGB: 3, _CMYK: 4}.get(photometric, 1):
        raise ValueError(f"a TIFF of {_name(page)} pixels with {channels} channels: the file contradicts itself")
    if photometric == _PALETTE and (page.colormap is None or page.colormap.shape[1] < 1 << _bits(page)):
        raise ValueError("a TIFF with a palette that is missing or too short")


def page_image(page: Any, pixels: np.ndarray) -> StoredImage:
    """All or some rows of a checked page, [h, W, C] as tifffile decodes them, with their meaning."""
    photometric, bits, orientation = _photometric(page), _bits(page), page.tags.get(_ORIENTATION)
    pixels = pixels.astype(np.uint8 if pixels.dtype.kind == "b" else pixels.dtype.newbyteorder("="), copy=False)
    if photometric == _WHITE_IS_ZERO:
        pixels = pixels.copy()
        pixels[..., 0] = np.array((1 << bits) - 1, pixels.dtype) - pixels[..., 0]
    if photometric == _PALETTE:
        entries = (page.colormap.T >> 8).astype(np.uint8)  # [2**bits, 3]
        extras = _over_full_range(pixels[..., 1:], bits)
        extras = extras if extras.dtype == np.uint8 else (extras >> 8).astype(np.uint8)
        pixels = np.concatenate([entries[pixels[..., 0]], extras], axis=-1)
    else:
        pixels = _over_full_range(pixels, bits)
    return StoredImage(
        pixels,
        "rgb" if photometric in (_RGB, _PALETTE) else "cmyk" if photometric == _CMYK else "",
        _ALPHA.get(int(page.extrasamples[0]), "") if len(page.extrasamples) == 1 else "",
        1 if orientation is None else int(orientation.value),
    )


def encode_tiff(pixels: np.ndarray) -> bytes:
    """[H, W, C] of any type as the bytes of a TIFF; 3 channels are RGB, others have no colour.

    Raises:
        MissingPackageError: tifffile is missing.
    """
    buffer = io.BytesIO()
    import_package("tifffile").imwrite(
        buffer, pixels if pixels.shape[2] > 1 else pixels[..., 0], **write_options(pixels.shape[2])
    )
    return buffer.getvalue()


def write_options(channels: int) -> dict[str, Any]:
    """How tifffile writes images of so many channels: 3 are RGB, others have no colour."""
    return {
        "photometric": "rgb" if channels == 3 else "minisblack",
        "planarconfig": "contig" if channels > 1 else None,
        "metadata": None,
    }


def _over_full_range(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers of 1 to 15 bits over the full range of 8 or 16 bits; all others as they are."""
    if pixels.dtype.kind != "u" or bits >= 16 or bits == 8:
        return pixels
    white, dtype = (255, np.uint8) if bits < 8 else (65535, np.uint16)
    return np.rint(pixels * (white / ((1 << bits) - 1))).astype(dtype)


def _bits(page: Any) -> int:
    return int(page.bitspersample)


def _photometric(page: Any) -> int:
    kind = int(page.photometric)
    return _RGB if kind == _YCBCR and int(page.compression) == _JPEG else kind  # which tifffile makes RGB of


def _name(page: Any) -> str:
    """Of the photometric kind, as the specification has it."""
    return str(getattr(page.photometric, "name", page.photometric))
