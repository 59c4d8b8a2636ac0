"""One image: find its file, decode it, turn it into tensors and back, encode it."""

from cyclegan_fast.images.decode import BadImageError, decode, to_mode
from cyclegan_fast.images.find import SUFFIXES, list_images
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.images.tensors import load_images, to_array, to_model_range

__all__ = [
    "SUFFIXES",
    "BadImageError",
    "ImageFile",
    "decode",
    "list_images",
    "load_images",
    "to_array",
    "to_mode",
    "to_model_range",
]
