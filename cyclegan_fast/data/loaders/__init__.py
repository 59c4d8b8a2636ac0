"""The loaders, and how a run comes by its own: index, check, choose."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import torch

from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.checks import check_images
from cyclegan_fast.data.decode import Form
from cyclegan_fast.data.folder import index_pair
from cyclegan_fast.data.loaders.base import Batch, Loader
from cyclegan_fast.data.loaders.workers import WorkersLoader
from cyclegan_fast.data.quarantine import FILE_NAME as QUARANTINE
from cyclegan_fast.data.quarantine import leave_out
from cyclegan_fast.data.samples import Domain, Samples
from cyclegan_fast.data.sources import Source, as_source
from cyclegan_fast.errors import UserError

__all__ = ["Batch", "Loader", "WorkersLoader", "build_train_loader"]

log = logging.getLogger(__name__)

LOADERS: dict[str, type[Loader]] = {kind.name: kind for kind in (WorkersLoader,)}


def build_train_loader(
    config: TrainConfig,
    device: torch.device | str,
    *,
    multiple: int = 4,
    smallest: int = transforms.SMALLEST_SIDE,
    say: Callable[[str], None] = print,
) -> Loader:
    """Indexes and checks the training images and returns their loader, before any model is built.

    Args:
        config: Where the images are, and what becomes of them.
        device: Where the batches go.
        multiple: What the networks need the sides of an image to be a multiple of.
        smallest: The least side that the networks can take, in pixels.
        say: Takes a word about the loader that was chosen.

    Raises:
        UserError: folders missing, empty or the same; bad files, as the policy says; sizes that cannot work.
    """
    samples = build_samples(config, multiple=multiple, smallest=smallest, say=say)
    kind = LOADERS["torch" if config.data.loader == "auto" else config.data.loader]
    return kind(
        samples,
        batch_size=config.optim.images_per_step,
        device=device,
        channels_last=config.run.channels_last,
    )


def build_samples(config: TrainConfig, *, multiple: int, smallest: int, say: Callable[[str], None] = print) -> Samples:
    """Indexes and checks the training images; see `build_train_loader`."""
    data = config.data
    if data.data is None:
        raise UserError("--data is missing: name the folder that holds trainA and trainB")
    min_side = transforms.check_geometry(data, multiple, smallest)
    channels = config.model.channels_A, config.model.channels_B
    domains, left_out = [], 0
    for paths, count in zip(index_pair(data.data, "train", data.direction), channels, strict=True):
        sources, quarantined = leave_out([as_source(path) for path in paths], data.data)
        left_out += len(quarantined)
        checked = check_images(
            sources[: data.max_dataset_size],
            on_bad=data.on_bad_image,
            min_side=min_side,
            cache_folder=data.data,
            say=say,
        )
        domains.append(Domain(checked.good, checked.sizes, Form(channels=count)))
        for error in checked.bad:
            log.warning("left out: %s", error)
    if left_out:
        say(f"{left_out} file{'s' * (left_out > 1)} left out: {data.data / QUARANTINE}")
    for domain in domains:
        _refuse_small_samples(data, domain.sources, domain.sizes, smallest)
        if config.optim.images_per_step > 1:
            _refuse_mixed_sizes(data, domain.sources, domain.sizes)
    return Samples(data, domains[0], domains[1], config.run.seed)


def _refuse_small_samples(
    config: DataConfig, sources: Sequence[Source], sizes: Iterable[transforms.Size], smallest: int
) -> None:
    """An image much wider than high may become too low for the networks."""
    for source, size in zip(sources, sizes, strict=True):
        width, height = transforms.sample_size(size, config)
        if min(width, height) < smallest:
            raise UserError(
                f"{source} becomes {width}x{height} pixels and these networks need {smallest} at least: raise "
                f"--load-size, or use --preprocess scale_width_and_crop"
            )


def _refuse_mixed_sizes(config: DataConfig, sources: Sequence[Source], sizes: Iterable[transforms.Size]) -> None:
    """The images of a batch are stacked, so they must come out at one size."""
    first: tuple[Source, transforms.Size] | None = None
    for source, size in zip(sources, sizes, strict=True):
        became = transforms.sample_size(size, config)
        first = first or (source, became)
        if became != first[1]:
            raise UserError(
                f"{source} becomes {became[0]}x{became[1]} pixels and {first[0]} {first[1][0]}x{first[1][1]}, which do "
                f"not fit one batch; use --batch-size 1 without --grad-accumulation, or --preprocess resize_and_crop"
            )
