"""What an image file holds beside its pixels: read within limits, carried over to the image that is made of it."""

from cyclegan_fast.images.metadata.carry import (
    carry_into_tiff,
    carry_over,
    is_profile,
    metadata_for,
    profile_fits,
    read_metadata,
)
from cyclegan_fast.images.metadata.model import KEEP, Change, LeftOut, Metadata, MetadataRules
from cyclegan_fast.images.metadata.nodata import Nodata, nodata_of

__all__ = [
    "KEEP",
    "Change",
    "LeftOut",
    "Metadata",
    "MetadataRules",
    "Nodata",
    "carry_into_tiff",
    "carry_over",
    "is_profile",
    "metadata_for",
    "nodata_of",
    "profile_fits",
    "read_metadata",
]
