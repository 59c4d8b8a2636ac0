"""What an image file holds beside its pixels: read within limits, carried over to the image that is made of it."""

from cyclegan_fast.images.metadata.carry import carry_into_tiff, carry_over, read_metadata
from cyclegan_fast.images.metadata.model import Change, LeftOut, Metadata, MetadataRule

__all__ = ["Change", "LeftOut", "Metadata", "MetadataRule", "carry_into_tiff", "carry_over", "read_metadata"]
