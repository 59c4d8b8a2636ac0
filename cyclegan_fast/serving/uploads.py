"""Uploaded image files: from their bytes to a generator's input, and from its output to the bytes of a file again."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from cyclegan_fast.engine import Engine
from cyclegan_fast.engine.translation.files import encode_translation
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import faults_of, opened
from cyclegan_fast.images.in_memory import EncodedImage
from cyclegan_fast.images.metadata import MetadataRules
from cyclegan_fast.images.model_io import InputImage, read_input
from cyclegan_fast.images.packages import import_package

Format = Literal["png", "jpeg", "tiff", "webp"]
MEDIA_TYPES = {
    **{"PNG": "image/png", "JPEG": "image/jpeg", "TIFF": "image/tiff", "WEBP": "image/webp"},
    **{"BMP": "image/bmp", "GIF": "image/gif", "PPM": "image/x-portable-anymap"},
}


class Header(NamedTuple):
    """What the head of an image file says."""

    kind: str
    """The format, such as PNG."""
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


class Upload(NamedTuple):
    """An image that was read."""

    source: EncodedImage
    header: Header
    image: InputImage


def read_header(source: EncodedImage, max_pixels: int) -> Header:
    """Reads the head of an image file, and refuses what is none, or too large to be decoded.

    Raises:
        UserError: It is one of them.
    """
    with faults_of(source), opened(source.open(), warn=False) as (file, image):
        if image is None:  # a TIFF of a kind that Pillow does not know
            with import_package("tifffile").TiffFile(file) as tiff:
                page = tiff.pages[0]
                header = Header("TIFF", int(page.imagewidth), int(page.imagelength))
        else:
            header = Header("JPEG" if image.format == "MPO" else str(image.format), *image.size)
    if header.pixels > max_pixels:
        size = f"{header.width}x{header.height} pixels"
        raise UserError(f"the image has {size}, and this server takes at most {max_pixels:,} pixels: reduce it")
    return header


def decode(source: EncodedImage, header: Header, engine: Engine) -> Upload:
    """Decodes an image for an engine.

    Raises:
        UserError: It is damaged, or one that the engine cannot take.
    """
    image = read_input(source, engine.in_format, engine.out_format)
    engine.limits.check((engine.limits.min_batch, *engine.limits.fitting_size(*image.values.shape[1:])), engine.name)
    return Upload(source, header, image)


def encode(
    upload: Upload, output: Tensor, engine: Engine, format: Format | None, rules: MetadataRules
) -> tuple[bytes, str]:
    """Encodes a translation as the kind of file that was uploaded, or another one.

    Returns:
        The file's content, and its media type.

    Raises:
        UserError: That kind of file cannot hold it.
    """
    kind = upload.header.kind if format is None else format.upper()
    content, _ = encode_translation(upload.source, kind, upload.image, output, engine.info, rules)
    return content, MEDIA_TYPES.get(kind, "application/octet-stream")
