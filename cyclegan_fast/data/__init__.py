"""Many images: where they are, what is known of them, the loaders that make batches of them, synthetic scenes."""

from cyclegan_fast.data.catalog.check import check_images
from cyclegan_fast.data.catalog.training_image import TrainingImage
from cyclegan_fast.data.loaders import Loader, build_train_loader
from cyclegan_fast.data.locations.folders import DOMAIN_FOLDERS, list_domains

__all__ = ["DOMAIN_FOLDERS", "Loader", "TrainingImage", "build_train_loader", "check_images", "list_domains"]
