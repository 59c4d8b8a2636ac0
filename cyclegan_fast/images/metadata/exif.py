"""Tags of TIFF and EXIF: which say something about the image, and which about the input's file or pixels alone."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Container
from typing import BinaryIO, NamedTuple

from cyclegan_fast.images.metadata.model import Change, Metadata, Samples, note, resolution_of, resolution_tags
from cyclegan_fast.images.metadata.tags import LONG, SHORT, UNDEFINED, Directory, Order, Tag, TagReader, exif_block

ORIENTATION, EXIF, GPS, INTEROPERABILITY = 274, 34665, 34853, 40965
DESCRIPTION, XMP, IPTC, PROFILE = 270, 700, 33723, 34675
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737, 50844)  # see `georeference`
GDAL_METADATA, GDAL_NODATA = 42112, 42113
OF_GEOTIFF = {*GEOREFERENCE, GDAL_METADATA, GDAL_NODATA}
# Document and page name, maker, model, positions on the page, software, date, artist, host, white point, primaries,
# ratings, copyright, Windows' texts: about the image, whatever its pixels are.
_DESCRIPTIVE = {DESCRIPTION, 269, 271, 272, 282, 283, 285, 286, 287, 296, 305, 306, 315, 316, 318, 319, 18246, 18249}
_DESCRIPTIVE |= {33432, *range(40091, 40096)}
# How the pixels are stored, and the thumbnail; also where a TIFF has further images, tables and offsets.
_STRUCTURE = {*range(254, 269), 273, *range(277, 282), 284, *range(288, 294), 297, 301, 317, *range(320, 326), 330}
_STRUCTURE |= {*range(332, 343), 343, 347, *range(512, 522), 529, 530, 531, 532, 559, ORIENTATION, 59932, 59933}
_EXIF_TAGS = range(33434, 42241)  # of the specification; the maker notes lie among them
_MAKER_NOTE, _COMPONENTS, _BITS_PER_PIXEL, _WIDTH, _HEIGHT = 37500, 37121, 37122, 40962, 40963
_COLOURS, _COLOURS_OF_EXIF = {318, 319}, {40961, 42240}  # white point, primaries; colour space, gamma
# Areas and points of the image, pixels of the sensor.
_OF_PLACES = {37396, 41486, 41487, 41488, 41492}
_NEVER = {_MAKER_NOTE, 37724, EXIF, GPS, INTEROPERABILITY}  # data of programs; places in the input's file
_IPTC_START = b"\x1c"
_LAYOUT_IN_TEXT = re.compile(r"<OME\b|ImageJ=|\"shape\"|SCANIMAGE|<MetaData\b")  # at its beginning
_BEGINNING = 2000  # characters
_SAMPLES = _BITS, _PHOTOMETRIC, _CHANNELS, _EXTRAS, _FORMAT = 258, 262, 277, 338, 339
_FORMATS = {1: "u", 2: "i", 3: "f"}
_BITS_OF = {"u": (8, 16, 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64)}

PRIVATE = "the maker notes, thumbnail and private tags, which belong to the input's file and may show it"
OF_PIXELS = "what describes the input's pixels (OME-XML and the like, places in the image)"


class _Kind(NamedTuple):
    """A kind of directory: the tags of it that are carried over, and the kinds of those that some of them lead to."""

    wanted: Container[int]
    inner: dict[int, _Kind]


_INNER = {EXIF: _Kind(_EXIF_TAGS, {INTEROPERABILITY: _Kind(range(1, 4099), {})}), GPS: _Kind(range(32), {})}
_OF_EXIF = _Kind(_DESCRIPTIVE | {ORIENTATION}, _INNER)
_OF_TIFF = _Kind(_DESCRIPTIVE | OF_GEOTIFF | {ORIENTATION, XMP, IPTC, PROFILE, *_SAMPLES}, _INNER)


def read_block(block: bytes, metadata: Metadata) -> None:
    """Reads the EXIF block of a file that is no TIFF."""
    block = block.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")
    _read_directories(io.BytesIO(block), metadata, _OF_EXIF, "EXIF")


def read_tiff(file: BinaryIO, metadata: Metadata) -> None:
    """Reads the tags of a TIFF's first page, and what other formats hold in blocks of their own."""
    _read_directories(file, metadata, _OF_TIFF, "TIFF tags")
    tags, empty = metadata.directory.tags, Tag(UNDEFINED, b"")
    metadata.profile, metadata.xmp = tags.pop(PROFILE, empty).data, tags.pop(XMP, empty).data
    iptc = tags.pop(IPTC, empty)
    swapped = iptc.in_order("<", ">").data  # some programs store its bytes as numbers of 32 bits
    metadata.iptc = swapped if swapped.startswith(_IPTC_START) else iptc.data
    metadata.samples = _samples({code: tags.pop(code, empty) for code in _SAMPLES}, metadata.order)


def _samples(tags: dict[int, Tag], order: Order) -> Samples:
    found = {code: [int(number) for number in tag.numbers(order)] for code, tag in tags.items()}
    kinds = {*zip(found[_FORMAT] or [1] * len(found[_BITS]), found[_BITS], strict=False)}
    kind, bits = kinds.pop() if len(kinds) == 1 else (0, 0)
    dtype = f"{_FORMATS[kind]}{bits // 8}" if kind in _FORMATS and bits in _BITS_OF[_FORMATS[kind]] else ""
    return Samples((found[_PHOTOMETRIC] or [-1])[0], (found[_CHANNELS] or [1])[0], len(found[_EXTRAS]), dtype)


def _read_directories(file: BinaryIO, metadata: Metadata, kind: _Kind, name: str) -> None:
    """Reads what is carried over; what is damaged is left out."""
    try:
        reader = TagReader(file)
        metadata.order = reader.order
        metadata.directory = _read(reader, reader.first, kind, metadata, name)
        if kind is _OF_EXIF and reader.has_next(reader.first):
            note(metadata.by_rule, PRIVATE)
    except (ValueError, struct.error):
        note(metadata.lost, f"{name}: damaged")
        return
    tags = metadata.directory.tags
    resolution = resolution_of(tags, metadata.order)
    if not metadata.resolution or not metadata.resolution.unit:  # else the format's own
        metadata.resolution = resolution or metadata.resolution
    metadata.orientation = _orientation(tags.pop(ORIENTATION, None), metadata)


def _read(reader: TagReader, offset: int, kind: _Kind, metadata: Metadata, name: str) -> Directory:
    found = Directory()
    for code, entry in reader.entries(offset).items():
        try:
            if code in kind.inner:
                found.children[code] = _read(reader, reader.number(entry.value), kind.inner[code], metadata, name)
            elif code in kind.wanted and code not in _NEVER:
                found.tags[code] = reader.tag(entry)
            elif code not in _STRUCTURE:
                note(metadata.by_rule, PRIVATE)
        except (ValueError, struct.error):
            note(metadata.lost, f"{name}: damaged in part")
    return found


def _orientation(tag: Tag | None, metadata: Metadata) -> int:
    """From 1 to 8; 0 if there is none."""
    values = tag.numbers(metadata.order) if tag and tag.kind in (SHORT, LONG) else []
    return int(values[0]) if values and values[0] in range(1, 9) else 0


def adapt(metadata: Metadata, change: Change) -> None:
    """Drops what describes the input's pixels, and enters the result's size."""
    tags, exif = metadata.directory.tags, metadata.directory.children.get(EXIF, Directory()).tags
    if DESCRIPTION in tags and _LAYOUT_IN_TEXT.search(tags[DESCRIPTION].text[:_BEGINNING]):
        del tags[DESCRIPTION]
        note(metadata.by_rule, OF_PIXELS)
    for code in (_COMPONENTS, _BITS_PER_PIXEL):
        exif.pop(code, None)
    if metadata.is_turned or change.scale != (1.0, 1.0):
        for code in _OF_PLACES & exif.keys():
            del exif[code]
            note(metadata.by_rule, OF_PIXELS)
    for code, size in zip((_WIDTH, _HEIGHT), change.output_size, strict=True):
        if code in exif:
            exif[code] = Tag(LONG, struct.pack(f"{metadata.order}I", size))


def drop_colours(metadata: Metadata) -> None:
    """Drops what says which colours the numbers mean, beside a profile that is no longer the input's."""
    exif = metadata.directory.children.get(EXIF, Directory())
    exif.children.pop(INTEROPERABILITY, None)
    for tags, codes in ((exif.tags, _COLOURS_OF_EXIF), (metadata.directory.tags, _COLOURS)):
        for code in codes & tags.keys():
            del tags[code]


def upright_tags(metadata: Metadata) -> Directory:
    """All tags of an upright image, with its resolution; none if there is nothing to hold."""
    directory = metadata.directory
    tags = dict(directory.tags)
    if metadata.resolution:
        tags |= resolution_tags(metadata.resolution, metadata.order)
    if tags or directory:
        tags[ORIENTATION] = Tag(SHORT, struct.pack(f"{metadata.order}H", 1))
    return Directory(tags, directory.children)


def exif_of(metadata: Metadata, *, for_resolution: bool = False) -> bytes:
    """The EXIF block of an upright image; empty if there is nothing to hold.

    Args:
        metadata: Of the image.
        for_resolution: Whether the resolution alone is worth a block.
    """
    wanted = bool(metadata.directory) or (for_resolution and metadata.resolution is not None)
    return exif_block(upright_tags(metadata), metadata.order) if wanted else b""
