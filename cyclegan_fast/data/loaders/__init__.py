"""The loaders, and how a run comes by its own: index, check, choose."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

import torch

from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.checks import check_images
from cyclegan_fast.data.decode import Form
from cyclegan_fast.data.loaders.base import Batch, Loader
from cyclegan_fast.data.loaders.cache import CacheLoader
from cyclegan_fast.data.loaders.dali import DaliLoader
from cyclegan_fast.data.loaders.workers import WorkersLoader
from cyclegan_fast.data.places import training_pictures
from cyclegan_fast.data.quarantine import FILE_NAME as QUARANTINE
from cyclegan_fast.data.quarantine import leave_out
from cyclegan_fast.data.samples import Domain, Samples
from cyclegan_fast.data.sources import Source
from cyclegan_fast.data.transforms import Size
from cyclegan_fast.errors import UserError

__all__ = ["LOADERS", "Batch", "Loader", "build_train_loader", "choose_loader"]

log = logging.getLogger(__name__)

# auto asks in this order
LOADERS: dict[str, type[Loader]] = {kind.name: kind for kind in (CacheLoader, DaliLoader, WorkersLoader)}


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
    device = torch.device(device)
    kind, passed_over = choose_loader(config.data.loader, samples, device)
    loader = kind(
        samples,
        batch_size=config.optim.images_per_step,
        device=device,
        channels_last=config.run.channels_last,
        say=say,
    )
    if config.data.loader == "auto":
        facts = [loader.about, *(f"not {name}: {reason}" for name, reason in passed_over.items())]
        say(f"loader: {kind.name} ({'; '.join(facts)})")
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


def build_samples(config: TrainConfig, *, multiple: int, smallest: int, say: Callable[[str], None] = print) -> Samples:
    """Indexes and checks the training images; see `build_train_loader`."""
    data = config.data
    min_side = transforms.check_geometry(data, multiple, smallest)
    channels = config.model.channels_A, config.model.channels_B
    usable = _usable(data, min_side, say)
    domains = [Domain(*found, Form(channels=count)) for found, count in zip(usable, channels, strict=True)]
    for domain in domains:
        _refuse_small_samples(data, domain.sources, domain.sizes, smallest)
        if config.optim.images_per_step > 1:
            _refuse_mixed_sizes(data, domain.sources, domain.sizes)
    return Samples(data, domains[0], domains[1], config.run.seed)


def _usable(data: DataConfig, min_side: int, say: Callable[[str], None]) -> list[tuple[list[Source], list[Size]]]:
    """The pictures of A and of B that are good and not quarantined, with their upright sizes."""
    places = training_pictures(data)
    found = [place.pictures for place in places]
    kept, left_out = [], Counter[Path]()
    for pictures, home in places:
        used, quarantined = leave_out(pictures, home)
        left_out[home] += len(quarantined)
        kept.append(used)
    for home, count in left_out.items():
        if count:
            say(f"{count} file{'s' * (count > 1)} left out: {home / QUARANTINE}")
    if data.paired:
        kept = _both(found, [set(used) for used in kept])
    kept = [used[: data.max_dataset_size] for used in kept]
    sizes: list[dict[Source, Size]] = []
    for used, place in zip(kept, places, strict=True):
        checked = check_images(used, on_bad=data.on_bad_image, min_side=min_side, cache_folder=place.home, say=say)
        sizes.append(dict(zip(checked.good, checked.sizes, strict=True)))
        for error in checked.bad:
            log.warning("left out: %s", error)
    if data.paired:
        kept = _both(kept, sizes)
    good = [[source for source in used if source in known] for used, known in zip(kept, sizes, strict=True)]
    return [(used, [known[source] for source in used]) for used, known in zip(good, sizes, strict=True)]


def _both(pairs: Sequence[list[Source]], usable: Sequence[Container[Source]]) -> list[list[Source]]:
    """The pairs of which both pictures can be used."""
    left = [(a, b) for a, b in zip(*pairs, strict=True) if a in usable[0] and b in usable[1]]
    if not left:
        raise UserError(
            "--paired: of no pair can both pictures be used; python -m cyclegan_fast.dataset check says why"
        )
    return [[a for a, _ in left], [b for _, b in left]]


def _refuse_small_samples(config: DataConfig, sources: Sequence[Source], sizes: Iterable[Size], smallest: int) -> None:
    """An image much wider than high may become too low for the networks."""
    for source, size in zip(sources, sizes, strict=True):
        width, height = transforms.sample_size(size, config)
        if min(width, height) < smallest:
            raise UserError(
                f"{source} becomes {width}x{height} pixels and these networks need {smallest} at least: raise "
                f"--load-size, or use --preprocess scale_width_and_crop"
            )


def _refuse_mixed_sizes(config: DataConfig, sources: Sequence[Source], sizes: Iterable[Size]) -> None:
    """The images of a batch are stacked, so they must come out at one size."""
    first: tuple[Source, Size] | None = None
    for source, size in zip(sources, sizes, strict=True):
        became = transforms.sample_size(size, config)
        first = first or (source, became)
        if became != first[1]:
            raise UserError(
                f"{source} becomes {became[0]}x{became[1]} pixels and {first[0]} {first[1][0]}x{first[1][1]}, which do "
                f"not fit one batch; use --batch-size 1 without --grad-accumulation, or --preprocess resize_and_crop"
            )
