"""The loaders, and how a run comes by its own: index, check, choose."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from cyclegan_fast.config import DataConfig, Form, TrainConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.checks import check_images
from cyclegan_fast.data.decode import BadImageError
from cyclegan_fast.data.forms import clipping, find_forms, misfits
from cyclegan_fast.data.inspection import Facts
from cyclegan_fast.data.loaders.base import Batch, Loader
from cyclegan_fast.data.loaders.cache import CacheLoader
from cyclegan_fast.data.loaders.dali import DaliLoader
from cyclegan_fast.data.loaders.workers import WorkersLoader
from cyclegan_fast.data.places import training_pictures
from cyclegan_fast.data.quarantine import FILE_NAME as QUARANTINE
from cyclegan_fast.data.quarantine import leave_out
from cyclegan_fast.data.samples import Domain, Samples
from cyclegan_fast.data.sources import Source, SourceTable
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
    rank: int = 0,
    world: int = 1,
    say: Callable[[str], None] = print,
) -> Loader:
    """Indexes and checks the training images and returns their loader, before any model is built.

    Args:
        config: Where the images are, and what becomes of them.
        device: Where the batches go.
        multiple: What the networks need the sides of an image to be a multiple of.
        smallest: The least side that the networks can take, in pixels.
        rank: Which of several training processes this is, from 0; each gets a share of its own.
        world: How many there are.
        say: Takes a word about the loader that was chosen.

    Raises:
        UserError: folders missing, empty or the same; bad files, as the policy says; sizes that cannot work;
            fewer shards than processes.
    """
    samples = build_samples(config, multiple=multiple, smallest=smallest, rank=rank, world=world, say=say)
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


def build_samples(
    config: TrainConfig,
    *,
    multiple: int,
    smallest: int,
    rank: int = 0,
    world: int = 1,
    say: Callable[[str], None] = print,
) -> Samples:
    """Indexes and checks the training images; see `build_train_loader`."""
    data = config.data
    min_side = transforms.check_geometry(data, multiple, smallest)
    channels = config.model.channels_A, config.model.channels_B
    found = _usable(data, min_side, say)
    forms = find_forms(data, channels, [[picture.facts for picture in pictures] for pictures in found], say)
    domains = [
        Domain(SourceTable(picture.source for picture in pictures), [picture.size for picture in pictures], form)
        for pictures, form in zip(_fitting(data, found, forms, say), forms, strict=True)
    ]
    for domain in domains:
        _refuse_small_samples(data, domain.sources, domain.sizes, smallest)
        if config.optim.images_per_step > 1:
            _refuse_mixed_sizes(data, domain.sources, domain.sizes)
    return Samples(data, domains[0], domains[1], config.run.seed, rank=rank, world=world)


class _Usable(NamedTuple):
    """A picture that can be trained on."""

    source: Source
    size: Size  # upright
    facts: Facts  # of the whole, where the source is a half


def _usable(data: DataConfig, min_side: int, say: Callable[[str], None]) -> list[list[_Usable]]:
    """The pictures of A and of B that are good and not quarantined."""
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
    good: list[dict[Source, _Usable]] = []
    for used, place in zip(kept, places, strict=True):
        checked = check_images(used, on_bad=data.on_bad_image, min_side=min_side, cache_folder=place.home, say=say)
        rows = zip(checked.good, checked.sizes, checked.facts, strict=True)
        good.append({row[0]: _Usable(*row) for row in rows})
        _tell_left_out(checked.bad)
    if animated := [str(p.source) for pictures in good for p in pictures.values() if p.facts.frames > 1]:
        say(f"of {len(animated)} animated file{'s' * (len(animated) > 1)} only the first frame is used ({animated[0]})")
    return _in_order(data, kept, good)


def _fitting(
    data: DataConfig, found: Sequence[list[_Usable]], forms: Sequence[Form], say: Callable[[str], None]
) -> list[list[_Usable]]:
    """Those that can be brought to the form of their domain; says what is clipped of them."""
    good = []
    for pictures, form in zip(found, forms, strict=True):
        sources, facts = [picture.source for picture in pictures], [picture.facts for picture in pictures]
        bad = misfits(sources, facts, form)
        if bad and (data.on_bad_image == "error" or len(bad) == len(pictures)):
            more = f" ({len(bad)} of {len(pictures)} files)" if len(bad) > 1 else ""
            raise UserError(f"{bad[0]}{more}")
        _tell_left_out(bad)
        refused = {error.source for error in bad}
        good.append({picture.source: picture for picture in pictures if picture.source not in refused})
    fitting = _in_order(data, [[picture.source for picture in pictures] for pictures in found], good)
    for name, pictures, form in zip("AB", fitting, forms, strict=True):
        if clipped := clipping([p.source for p in pictures], [p.facts for p in pictures], form):
            say(f"{name}: {clipped}")
    return fitting


def _in_order(
    data: DataConfig, wanted: list[list[Source]], good: Sequence[dict[Source, _Usable]]
) -> list[list[_Usable]]:
    """The good ones of the pictures of each domain in their order; of pairs, those of which both are good."""
    if data.paired:
        wanted = _both(wanted, good)
    return [[known[source] for source in used if source in known] for used, known in zip(wanted, good, strict=True)]


def _tell_left_out(bad: Iterable[BadImageError]) -> None:
    for error in bad:
        log.warning("left out: %s", error)


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
