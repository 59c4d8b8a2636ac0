"""The loaders: batches of training images, made by one of three implementations (cache, dali, torch)."""

from cyclegan_fast.data.loaders.base import Batch, Loader
from cyclegan_fast.data.loaders.build import LOADERS, build_train_loader, choose_loader

__all__ = ["LOADERS", "Batch", "Loader", "build_train_loader", "choose_loader"]
