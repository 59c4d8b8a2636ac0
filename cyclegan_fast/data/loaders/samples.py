"""Training samples by number: what the n-th is made of, and its images.

Nothing here has a memory. Sample n of the endless stream draws all that is random in it from (seed, n), so every
loader gives the same samples, whatever its number of workers, and a stream taken up again at sample n goes on as if
it had never stopped.

Several training processes (ranks) share the stream: of each `world` numbers that follow one another every rank takes
one. Where images are files, all ranks know all of them, and what they take together is the stream of a single one.
Where images are in shards, each rank has its own shards, and its own order in which it goes through them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.loaders.sharding import in_shards, owners
from cyclegan_fast.data.rng import Purpose, stream
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import BadImageError, PixelFormat, read
from cyclegan_fast.images.image_file import ImageFile, ImageFileTable

_MOST_BAD_IN_A_ROW = 100  # files; more than that and the disk is gone, not a file

Skipped = list[tuple[str, str]]  # (source, reason) of each image that went bad


@dataclass(frozen=True)
class Domain:
    """The images of one side, all of them checked."""

    sources: Sequence[ImageFile]
    sizes: Sequence[transforms.Size]
    """Upright width and height of each, in pixels."""
    pixel_format: PixelFormat
    """What they are decoded to."""


class Picked(NamedTuple):
    """What one sample number stands for."""

    a: int  # index into the images of A
    b: int  # index into the images of B
    draw_A: transforms.Draw
    draw_B: transforms.Draw


class Samples:
    """Sample number -> one image of A and one of B.

    Args:
        config: Geometry, order and the policy for bad files.
        domain_A: The images of A, as the networks name the domains.
        domain_B: The images of B.
        seed: Seed of order and augmentation.
        rank: Which of several training processes this is, from 0.
        world: How many there are.

    Raises:
        UserError: fewer shards than processes.
    """

    def __init__(
        self, config: DataConfig, domain_A: Domain, domain_B: Domain, seed: int, *, rank: int = 0, world: int = 1
    ) -> None:
        self.config, self.seed, self.rank, self.world = config, seed, rank, world
        self.domains = domain_A, domain_B
        """The images that this process takes."""
        self.counts = len(domain_A.sources), len(domain_B.sources)
        """Images of A and of B, those of all processes together."""
        self.own_shards = world > 1 and any(in_shards(domain.sources) for domain in self.domains)
        if self.own_shards:
            owner_A = owners(domain_A.sources, world)
            owner_B = owner_A if config.paired else owners(domain_B.sources, world)  # a pair stays together
            self.domains = _part(domain_A, owner_A == rank), _part(domain_B, owner_B == rank)

    def __len__(self) -> int:
        """One pass of all processes together: as many samples as the larger domain has images."""
        return max(self.counts)

    def numbers(self, first: int) -> Iterator[int]:
        """The numbers of the samples that this process takes, for ever, if all together begin with `first`."""
        return itertools.count(first + self.rank, self.world)

    def pick(self, number: int) -> Picked:
        """Draws everything that is random in a sample, from the seed and its number alone."""
        size_A, size_B = (len(domain.sources) for domain in self.domains)
        one_pass = max(size_A, size_B)
        # Of every `world` numbers one is this process's: its own shards are passed through that much more slowly.
        epoch, position = divmod(number // self.world if self.own_shards else number, one_pass)
        rng = stream(self.seed, Purpose.SAMPLE, number)
        b = int(rng.integers(size_B))
        draw_A, draw_B = transforms.draw(rng), transforms.draw(rng)
        place = position if self.config.serial_batches else int(self._order(epoch, one_pass)[position])
        if self.config.paired:
            return Picked(place, place, draw_A, draw_A)
        return Picked(place % size_A, place % size_B if self.config.serial_batches else b, draw_A, draw_B)

    def _order(self, epoch: int, size: int) -> np.ndarray:
        return _order(self.seed, epoch, size, self.rank if self.own_shards else 0)

    def read(self, domain: int, index: int, skipped: Skipped) -> tuple[ImageFile, np.ndarray]:
        """Decodes one image of a domain and brings it to its size, before any crop.

        Args:
            domain: 0 for A, 1 for B.
            index: Which of its images.
            skipped: Takes the images that went bad since the check; under the policy "skip" the next image of the
                domain stands in for such a one.

        Returns:
            Where it came from, and its pixels [H, W, C].

        Raises:
            UserError: Under the policy "error", or as one of a pair, it went bad; under "skip" so did all that could
                stand in for it.
        """
        images = self.domains[domain]
        for step in range(min(len(images.sources), _MOST_BAD_IN_A_ROW)):
            source = images.sources[(index + step) % len(images.sources)]
            try:
                return source, transforms.resize(read(source, images.pixel_format), self.config)
            except BadImageError as error:
                if self.config.on_bad_image == "error" or self.config.paired:  # what stood in would have no partner
                    raise UserError(f"{error}; it was good when training began: mend it and resume") from error
                skipped.append((str(source), error.reason))
        raise UserError(
            f"{images.sources[index]} and the {len(skipped) - 1} files after it cannot be read; is the disk there?"
        )


def _part(domain: Domain, mine: np.ndarray) -> Domain:
    """The images of a domain for which `mine`, bool [images], holds."""
    chosen = np.flatnonzero(mine).tolist()
    sources = ImageFileTable(domain.sources[i] for i in chosen)
    return replace(domain, sources=sources, sizes=[domain.sizes[i] for i in chosen])


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int, rank: int) -> np.ndarray:
    """The order of one pass, int64 [size]."""
    return stream(seed, Purpose.ORDER, epoch, rank).permutation(size)
