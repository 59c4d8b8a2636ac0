"""What an image file holds beside its pixels, in one form for all formats."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, NamedTuple

from cyclegan_fast.images.metadata.tags import RATIONAL, SHORT, Directory, Order, Tag

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
_UNITS: dict[int, Literal["", "inch", "cm"]] = {1: "", 2: "inch", 3: "cm"}
_MAX_RESOLUTION = 2**31


class Resolution(NamedTuple):
    """Pixels for a unit of length."""

    x: float
    y: float
    unit: Literal["", "inch", "cm"]
    """Empty where only the ratio of both is known, the shape of the pixels."""

    def per(self, unit: Literal["inch", "cm", "m"]) -> tuple[float, float]:
        """The same for another unit."""
        factor = {"inch": 2.54, "cm": 1.0, "m": 100.0}[unit] / {"inch": 2.54, "cm": 1.0, "": 1.0}[self.unit]
        return self.x * factor, self.y * factor


class Change(NamedTuple):
    """What a translation changes of an image beside the values of its pixels."""

    input_size: tuple[int, int]
    """Width and height, upright."""
    output_size: tuple[int, int]
    channels: int
    """Of the result."""

    @property
    def scale(self) -> tuple[float, float]:
        """How many pixels of the result there are for one of the input, across and down."""
        (width, height), (new_width, new_height) = self.input_size, self.output_size
        return new_width / width, new_height / height


class LeftOut(NamedTuple):
    """Metadata that a result lacks, each with the reason."""

    lost: tuple[str, ...] = ()
    """Damaged, or what the result's format cannot hold."""
    by_rule: tuple[str, ...] = ()
    """What describes the input's pixels or its file."""


class Samples(NamedTuple):
    """How a TIFF holds its pixels, by the specification's numbers."""

    photometric: int
    channels: int
    extras: int
    """How many of the channels are transparency, or further bands."""
    dtype: str
    """As numpy has it; empty of several, of complex numbers, and of bits that are no whole bytes."""


@dataclass(frozen=True)
class MetadataRules:
    """What results keep of the metadata of images."""

    which: Literal["keep", "technical", "none"] = "keep"
    """All that is true of them; the colour profile, the resolution and the georeference alone; or nothing."""
    profile: bytes | None = None
    """Colour profile (ICC) for all results in place of the inputs' own; empty for none."""
    nodata: Literal["restore", "drop"] = "restore"
    """Whether pixels that hold no data by GDAL's nodata value get that value back."""


KEEP = MetadataRules()


@dataclass
class Metadata:
    """What an image file holds beside its pixels."""

    profile: bytes = b""
    """ICC."""
    colour_chunks: dict[bytes, bytes] = field(default_factory=dict)
    """Of a PNG, which say what its numbers mean."""
    is_grey: bool = False
    """Whether that PNG has no colours."""
    resolution: Resolution | None = None
    order: Order = "<"
    """Of the bytes of tags."""
    directory: Directory = field(default_factory=Directory)
    """The tags of a TIFF or of EXIF; not those that others of these fields hold."""
    xmp: bytes = b""
    iptc: bytes = b""
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Chunks of a PNG, with their kinds."""
    text_size: int = 0
    """Bytes of these texts, decompressed."""
    comment: bytes = b""
    """Of a JPEG."""
    samples: Samples | None = None
    """Of a TIFF."""
    has_nodata_restored: bool = False
    """Whether the pixels without data of the result have GDAL's nodata value."""
    orientation: int = 0
    """As in EXIF; 0 if the file does not have it."""
    lost: list[str] = field(default_factory=list)
    """What the result lacks though it need not: damaged, or what its format cannot hold; each with the reason."""
    by_rule: list[str] = field(default_factory=list)
    """What no result has, as it describes the input's file or its pixels; each with the reason."""

    def forget(self) -> None:
        """Drops everything but what is left out."""
        vars(self).update(vars(Metadata(lost=self.lost, by_rule=self.by_rule)))

    @property
    def left_out(self) -> LeftOut:
        """What the result lacks."""
        return LeftOut(tuple(self.lost), tuple(self.by_rule))

    @property
    def is_turned(self) -> bool:
        """Whether the result, which is upright, lies in another way than the input's pixels."""
        return self.orientation > 1


def note(names: list[str], name: str) -> None:
    """Adds a name that is not among them yet."""
    if name not in names:
        names.append(name)


def resolution_of(tags: dict[int, Tag], order: Order) -> Resolution | None:
    """Takes the resolution out of tags."""
    unit = tags.pop(RESOLUTION_UNIT, Tag(SHORT, (2).to_bytes(2, "little" if order == "<" else "big")))
    found = [tags.pop(code, None) for code in (X_RESOLUTION, Y_RESOLUTION)]
    try:
        x, y = (tag.numbers(order)[0] if tag else 0.0 for tag in found)
        return checked_resolution(x, y, _UNITS[int(unit.numbers(order)[0])])
    except (ValueError, LookupError, ZeroDivisionError):
        return None


def checked_resolution(x: float, y: float, unit: Literal["", "inch", "cm"]) -> Resolution | None:
    """A resolution, or None where it means nothing: zeros, or a ratio of 1."""
    if not (0 < x < _MAX_RESOLUTION and 0 < y < _MAX_RESOLUTION) or (unit == "" and x == y):
        return None
    return Resolution(x, y, unit)


def resolution_tags(resolution: Resolution, order: Order) -> dict[int, Tag]:
    """A resolution as tags of a TIFF or of EXIF."""
    name: Literal["little", "big"] = "little" if order == "<" else "big"
    unit = next(number for number, unit in _UNITS.items() if unit == resolution.unit)
    return {
        X_RESOLUTION: Tag(RATIONAL, _rational(resolution.x, name)),
        Y_RESOLUTION: Tag(RATIONAL, _rational(resolution.y, name)),
        RESOLUTION_UNIT: Tag(SHORT, unit.to_bytes(2, name)),
    }


def _rational(value: float, order: Literal["little", "big"]) -> bytes:
    fraction = Fraction(value).limit_denominator(min(10**6, int(2**31 / max(value, 1.0))))
    fraction = max(fraction, Fraction(1, 10**6))
    return fraction.numerator.to_bytes(4, order) + fraction.denominator.to_bytes(4, order)
