"""How a run comes by its loader: locate the images, drop those that cannot be used, choose the loader."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.catalog.check import check_images
from cyclegan_fast.data.catalog.pixel_formats import describe_clipping, find_pixel_formats, fit
from cyclegan_fast.data.catalog.quarantine import FILE_NAME as QUARANTINE
from cyclegan_fast.data.catalog.quarantine import exclude
from cyclegan_fast.data.catalog.training_image import TrainingImage, drop
from cyclegan_fast.data.loaders.base import Loader
from cyclegan_fast.data.loaders.cache import CacheLoader
from cyclegan_fast.data.loaders.dali import DaliLoader
from cyclegan_fast.data.loaders.samples import Domain, Samples
from cyclegan_fast.data.loaders.torch import WorkersLoader
from cyclegan_fast.data.locations.domains import DomainFiles, locate
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import ImageFile

log = logging.getLogger(__name__)

# auto asks in this order
LOADERS: dict[str, type[Loader]] = {kind.name: kind for kind in (CacheLoader, DaliLoader, WorkersLoader)}


def build_train_loader(
    config: TrainConfig,
    device: torch.device | str,
    *,
    size_divisor: int = 4,
    min_size: int = transforms.MIN_SIDE,
    rank: int = 0,
    world: int = 1,
) -> Loader:
    """Finds and checks the training images and returns their loader, before any model is built.

    Args:
        config: Where the images are, and what becomes of them.
        device: Where the batches go.
        size_divisor: What the networks need the sides of an image to be a multiple of.
        min_size: The shortest side that the networks can take, in pixels.
        rank: Which of several training processes this is, from 0; each gets a share of its own.
        world: How many there are.

    Raises:
        UserError: Folders missing, empty or the same; bad files, as the policy says; sizes that cannot work;
            fewer shards than processes.
    """
    samples = build_samples(config, size_divisor=size_divisor, min_size=min_size, rank=rank, world=world)
    device = torch.device(device)
    kind, passed_over = choose_loader(config.data.loader, samples, device)
    loader = kind(
        samples,
        batch_size=config.optim.images_per_step,
        device=device,
        channels_last=config.run.channels_last,
    )
    if config.data.loader == "auto":
        reasons = [loader.description, *(f"not {name}: {reason}" for name, reason in passed_over.items())]
        log.info("loader: %s (%s)", kind.name, "; ".join(reasons))
    return loader


def choose_loader(name: str, samples: Samples, device: torch.device) -> tuple[type[Loader], dict[str, str]]:
    """Finds the loader of that name, or under "auto" the first that can serve.

    Returns:
        The loader, and why those that auto would have preferred cannot serve, by name.

    Raises:
        UserError: The loader that was named cannot serve; the message says why, and what helps.
    """
    passed_over: dict[str, str] = {}
    candidates = [kind for kind in LOADERS.values() if device.type in kind.auto_devices]
    for kind in candidates if name == "auto" else [LOADERS[name]]:
        reason = kind.why_not(samples, device)
        if reason is None:
            return kind, passed_over
        passed_over[kind.name] = reason
    raise UserError(f"--loader {name}: {passed_over[name]}; {LOADERS[name].fix}")


def build_samples(config: TrainConfig, *, size_divisor: int, min_size: int, rank: int = 0, world: int = 1) -> Samples:
    """Finds and checks the training images: locate, exclude, check, fit; see `build_train_loader`."""
    data = config.data
    min_side = transforms.check_geometry(data, size_divisor, min_size)
    located = locate(data)
    checked = [
        check_images(files, on_bad=data.on_bad_image, min_side=min_side, catalog_folder=domain.catalog_folder)
        for files, domain in zip(_without_quarantined(located, data), located, strict=True)
    ]
    usable = drop(checked, data.paired)
    _log_animations(usable)
    pixel_formats = find_pixel_formats(data, (config.model.channels_A, config.model.channels_B), usable)
    fitting = [
        fit(images, pixel_format, data.on_bad_image) for images, pixel_format in zip(usable, pixel_formats, strict=True)
    ]
    domains = []
    for name, images, pixel_format in zip("AB", drop(fitting, data.paired), pixel_formats, strict=True):
        if clipping := describe_clipping(images, pixel_format):
            log.info("%s: %s", name, clipping)
        _refuse_small_samples(data, images, min_size)
        if config.optim.images_per_step > 1:
            _refuse_mixed_sizes(data, images)
        domains.append(Domain.of(images, pixel_format))
    return Samples(data, domains[0], domains[1], config.run.seed, rank=rank, world=world)


def _without_quarantined(located: Sequence[DomainFiles], data: DataConfig) -> list[list[ImageFile]]:
    """The files of A and B that no quarantine list names, as many as --max-dataset-size allows."""
    kept = [exclude(domain.files, domain.catalog_folder) for domain in located]
    left_out: dict[Path, set[ImageFile]] = {}
    for files, domain in zip(kept, located, strict=True):
        dropped = {file.whole for file, used in zip(domain.files, files, strict=True) if used is None}
        left_out.setdefault(domain.catalog_folder, set()).update(dropped)
    for folder, dropped in left_out.items():
        if dropped:
            log.info("%d file%s left out: %s", len(dropped), "s" * (len(dropped) > 1), folder / QUARANTINE)
    return [files[: data.max_dataset_size] for files in drop(kept, data.paired)]


def _log_animations(domains: Sequence[Sequence[TrainingImage]]) -> None:
    if animated := [image.file for images in domains for image in images if image.metadata.frames > 1]:
        plural = "s" * (len(animated) > 1)
        log.info("of %d animated file%s only the first frame is used (%s)", len(animated), plural, animated[0])


def _refuse_small_samples(data: DataConfig, images: Sequence[TrainingImage], min_size: int) -> None:
    """An image much wider than high may become too low for the networks."""
    for image in images:
        width, height = transforms.sample_size(image.size, data)
        if min(width, height) < min_size:
            raise UserError(
                f"{image.file} becomes {width}x{height} pixels and these networks need {min_size} at least: raise "
                f"--load-size, or use --preprocess scale_width_and_crop"
            )


def _refuse_mixed_sizes(data: DataConfig, images: Sequence[TrainingImage]) -> None:
    """The images of a batch are stacked, so they must come out at one size."""
    width, height = transforms.sample_size(images[0].size, data)
    for image in images:
        w, h = transforms.sample_size(image.size, data)
        if (w, h) != (width, height):
            raise UserError(
                f"{image.file} becomes {w}x{h} pixels and {images[0].file} {width}x{height}, which do not fit one "
                f"batch; use --batch-size 1 without --grad-accumulation, or --preprocess resize_and_crop"
            )
