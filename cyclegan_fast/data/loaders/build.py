"""The loaders, and how a run comes by its own: index, check, choose."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from cyclegan_fast.config import DataConfig, PixelFormat, TrainConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.catalog.check import check_images
from cyclegan_fast.data.catalog.pixel_formats import clipping, find_pixel_formats, misfits
from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.data.catalog.quarantine import FILE_NAME as QUARANTINE
from cyclegan_fast.data.catalog.quarantine import leave_out
from cyclegan_fast.data.loaders.base import Loader
from cyclegan_fast.data.loaders.cache import CacheLoader
from cyclegan_fast.data.loaders.dali import DaliLoader
from cyclegan_fast.data.loaders.samples import Domain, Samples
from cyclegan_fast.data.loaders.torch import WorkersLoader
from cyclegan_fast.data.locations.locations import training_images
from cyclegan_fast.data.transforms import Size
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import BadImageError
from cyclegan_fast.images.image_file import ImageFile, ImageFileTable

log = logging.getLogger(__name__)

# auto asks in this order
LOADERS: dict[str, type[Loader]] = {kind.name: kind for kind in (CacheLoader, DaliLoader, WorkersLoader)}


def build_train_loader(
    config: TrainConfig,
    device: torch.device | str,
    *,
    size_divisor: int = 4,
    min_size: int = transforms.SMALLEST_SIDE,
    rank: int = 0,
    world: int = 1,
) -> Loader:
    """Indexes and checks the training images and returns their loader, before any model is built.

    Args:
        config: Where the images are, and what becomes of them.
        device: Where the batches go.
        size_divisor: What the networks need the sides of an image to be a multiple of.
        min_size: The least side that the networks can take, in pixels.
        rank: Which of several training processes this is, from 0; each gets a share of its own.
        world: How many there are.

    Raises:
        UserError: folders missing, empty or the same; bad files, as the policy says; sizes that cannot work;
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
        metadata = [loader.about, *(f"not {name}: {reason}" for name, reason in passed_over.items())]
        log.info("loader: %s (%s)", kind.name, "; ".join(metadata))
    return loader


def choose_loader(name: str, samples: Samples, device: torch.device) -> tuple[type[Loader], dict[str, str]]:
    """Finds the loader of that name, or under "auto" the first that can serve.

    Returns:
        The loader, and why those that auto would rather have taken cannot serve, by name.

    Raises:
        UserError: the loader that was named cannot serve; the sentence says why, and what helps.
    """
    passed_over: dict[str, str] = {}
    by_itself = [kind for kind in LOADERS.values() if device.type in kind.auto_devices]
    for kind in by_itself if name == "auto" else [LOADERS[name]]:
        reason = kind.why_not(samples, device)
        if reason is None:
            return kind, passed_over
        passed_over[kind.name] = reason
    raise UserError(f"--loader {name}: {passed_over[name]}; {LOADERS[name].mend}")


def build_samples(
    config: TrainConfig,
    *,
    size_divisor: int,
    min_size: int,
    rank: int = 0,
    world: int = 1,
) -> Samples:
    """Indexes and checks the training images; see `build_train_loader`."""
    data = config.data
    min_side = transforms.check_geometry(data, size_divisor, min_size)
    channels = config.model.channels_A, config.model.channels_B
    found = _usable(data, min_side)
    pixel_formats = find_pixel_formats(data, channels, [[image.metadata for image in images] for images in found])
    domains = [
        Domain(ImageFileTable(image.source for image in images), [image.size for image in images], pixel_format)
        for images, pixel_format in zip(_fitting(data, found, pixel_formats), pixel_formats, strict=True)
    ]
    for domain in domains:
        _refuse_small_samples(data, domain.sources, domain.sizes, min_size)
        if config.optim.images_per_step > 1:
            _refuse_mixed_sizes(data, domain.sources, domain.sizes)
    return Samples(data, domains[0], domains[1], config.run.seed, rank=rank, world=world)


class _Usable(NamedTuple):
    """An image that can be trained on."""

    source: ImageFile
    size: Size  # upright
    metadata: ImageMetadata  # of the whole, where the source is a half


def _usable(data: DataConfig, min_side: int) -> list[list[_Usable]]:
    """The images of A and of B that are good and not quarantined."""
    locations = training_images(data)
    found = [location.images for location in locations]
    kept, left_out = [], Counter[Path]()
    for images, home in locations:
        used, quarantined = leave_out(images, home)
        left_out[home] += len(quarantined)
        kept.append(used)
    for home, count in left_out.items():
        if count:
            log.info("%d file%s left out: %s", count, "s" * (count > 1), home / QUARANTINE)
    if data.paired:
        kept = _both(found, [set(used) for used in kept])
    kept = [used[: data.max_dataset_size] for used in kept]
    good: list[dict[ImageFile, _Usable]] = []
    for used, location in zip(kept, locations, strict=True):
        checked = check_images(used, on_bad=data.on_bad_image, min_side=min_side, cache_folder=location.home)
        rows = zip(checked.good, checked.sizes, checked.metadata, strict=True)
        good.append({row[0]: _Usable(*row) for row in rows})
        _tell_left_out(checked.bad)
    if animated := [str(p.source) for images in good for p in images.values() if p.metadata.frames > 1]:
        plural = "s" * (len(animated) > 1)
        log.info("of %d animated file%s only the first frame is used (%s)", len(animated), plural, animated[0])
    return _in_order(data, kept, good)


def _fitting(
    data: DataConfig, found: Sequence[list[_Usable]], pixel_formats: Sequence[PixelFormat]
) -> list[list[_Usable]]:
    """Those that can be brought to the pixel format of their domain; logs what is clipped of them."""
    good = []
    for images, pixel_format in zip(found, pixel_formats, strict=True):
        sources, metadata = [image.source for image in images], [image.metadata for image in images]
        bad = misfits(sources, metadata, pixel_format)
        if bad and (data.on_bad_image == "error" or len(bad) == len(images)):
            more = f" ({len(bad)} of {len(images)} files)" if len(bad) > 1 else ""
            raise UserError(f"{bad[0]}{more}")
        _tell_left_out(bad)
        refused = {error.source for error in bad}
        good.append({image.source: image for image in images if image.source not in refused})
    fitting = _in_order(data, [[image.source for image in images] for images in found], good)
    for name, images, pixel_format in zip("AB", fitting, pixel_formats, strict=True):
        if clipped := clipping([p.source for p in images], [p.metadata for p in images], pixel_format):
            log.info("%s: %s", name, clipped)
    return fitting


def _in_order(
    data: DataConfig, wanted: list[list[ImageFile]], good: Sequence[dict[ImageFile, _Usable]]
) -> list[list[_Usable]]:
    """The good ones of the images of each domain in their order; of pairs, those of which both are good."""
    if data.paired:
        wanted = _both(wanted, good)
    return [[known[source] for source in used if source in known] for used, known in zip(wanted, good, strict=True)]


def _tell_left_out(bad: Iterable[BadImageError]) -> None:
    for error in bad:
        log.warning("left out: %s", error)


def _both(pairs: Sequence[list[ImageFile]], usable: Sequence[Container[ImageFile]]) -> list[list[ImageFile]]:
    """The pairs of which both images can be used."""
    left = [(a, b) for a, b in zip(*pairs, strict=True) if a in usable[0] and b in usable[1]]
    if not left:
        raise UserError("--paired: of no pair can both images be used; python -m cyclegan_fast.dataset check says why")
    return [[a for a, _ in left], [b for _, b in left]]


def _refuse_small_samples(
    config: DataConfig, sources: Sequence[ImageFile], sizes: Iterable[Size], min_size: int
) -> None:
    """An image much wider than high may become too low for the networks."""
    for source, size in zip(sources, sizes, strict=True):
        width, height = transforms.sample_size(size, config)
        if min(width, height) < min_size:
            raise UserError(
                f"{source} becomes {width}x{height} pixels and these networks need {min_size} at least: raise "
                f"--load-size, or use --preprocess scale_width_and_crop"
            )


def _refuse_mixed_sizes(config: DataConfig, sources: Sequence[ImageFile], sizes: Iterable[Size]) -> None:
    """The images of a batch are stacked, so they must come out at one size."""
    first: tuple[ImageFile, Size] | None = None
    for source, size in zip(sources, sizes, strict=True):
        became = transforms.sample_size(size, config)
        first = first or (source, became)
        if became != first[1]:
            raise UserError(
                f"{source} becomes {became[0]}x{became[1]} pixels and {first[0]} {first[1][0]}x{first[1][1]}, which do "
                f"not fit one batch; use --batch-size 1 without --grad-accumulation, or --preprocess resize_and_crop"
            )
