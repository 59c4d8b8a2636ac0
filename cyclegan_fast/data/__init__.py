"""From files to batches: folder index and checks, decoding, transforms, the loader, synthetic scenes."""

from cyclegan_fast.data.checks import CheckedImages, check_images
from cyclegan_fast.data.decode import BadImageError, decode, to_mode
from cyclegan_fast.data.folder import DOMAIN_FOLDERS, SUFFIXES, index_domain, index_pair
from cyclegan_fast.data.loaders import Loader, build_train_loader
from cyclegan_fast.data.pixels import load_images, to_array, to_model_range

__all__ = [
    "DOMAIN_FOLDERS",
    "SUFFIXES",
    "BadImageError",
    "CheckedImages",
    "Loader",
    "build_train_loader",
    "check_images",
    "decode",
    "index_domain",
    "index_pair",
    "load_images",
    "to_array",
    "to_mode",
    "to_model_range",
]
