"""Training samples by number: what the n-th is made of, and its images.

Nothing here has a memory. Sample n of the endless stream draws all that is random in it from (seed, n), so every
loader gives the same samples, whatever its number of workers, and a stream that is resumed at sample n goes on as if
it had never stopped.

Several training processes (ranks) share the stream: of each `world` consecutive numbers every rank takes one. Where
images are files, all ranks know all of them, and together they take the stream of a single one. Where images are in
shards, each rank has its own shards, and its own order in which it goes through them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.catalog.training_image import TrainingImage
from cyclegan_fast.data.loaders.sharding import assign_ranks, in_shards
from cyclegan_fast.data.rng import RandomUse, rng_for
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import BadImageError, PixelFormat, read
from cyclegan_fast.images.image_file import ImageFile, ImageFileTable

_MAX_BAD_IN_A_ROW = 100  # files; more than that and the disk is gone, not a file

Skipped = list[tuple[str, str]]  # (file, reason) of each image that went bad


@dataclass(frozen=True)
class Domain:
    """The training images of one domain, in columns, so that a million of them take little memory."""

    files: Sequence[ImageFile]
    sizes: np.ndarray
    """Upright width and height of each in pixels, int32 [N, 2]."""
    pixel_format: PixelFormat
    """What they are decoded to."""

    @classmethod
    def of(cls, images: Sequence[TrainingImage], pixel_format: PixelFormat) -> Domain:
        """Returns the domain of some images; their metadata is no longer needed."""
        sizes = np.array([image.size for image in images], np.int32).reshape(-1, 2)
        return cls(ImageFileTable(image.file for image in images), sizes, pixel_format)

    def __len__(self) -> int:
        return len(self.files)

    def select(self, chosen: np.ndarray) -> Domain:
        """Returns the domain of the images for which `chosen`, bool [N], holds."""
        files = ImageFileTable(self.files[i] for i in np.flatnonzero(chosen).tolist())
        return Domain(files, self.sizes[chosen], self.pixel_format)


class Sample(NamedTuple):
    """What one sample number stands for."""

    index_A: int
    """Of the image of A in its domain."""
    index_B: int
    augmentation_A: transforms.Augmentation
    augmentation_B: transforms.Augmentation


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
        UserError: Fewer shards than processes.
    """

    def __init__(
        self, config: DataConfig, domain_A: Domain, domain_B: Domain, seed: int, *, rank: int = 0, world: int = 1
    ) -> None:
        self.config, self.seed, self.rank, self.world = config, seed, rank, world
        self.domains = domain_A, domain_B
        """The images that this process takes."""
        self.counts = len(domain_A), len(domain_B)
        """Images of A and of B, those of all processes together."""
        self.own_shards = world > 1 and any(in_shards(domain.files) for domain in self.domains)
        if self.own_shards:
            ranks_A = assign_ranks(domain_A.files, world)
            ranks_B = ranks_A if config.paired else assign_ranks(domain_B.files, world)  # a pair stays together
            self.domains = domain_A.select(ranks_A == rank), domain_B.select(ranks_B == rank)

    def __len__(self) -> int:
        """One pass of all processes together: as many samples as the larger domain has images."""
        return max(self.counts)

    def numbers(self, first: int) -> Iterator[int]:
        """Yields the numbers of the samples that this process takes, for ever, if all together begin with `first`."""
        return itertools.count(first + self.rank, self.world)

    def draw(self, number: int) -> Sample:
        """Draws everything that is random in a sample, from the seed and its number alone."""
        count_A, count_B = map(len, self.domains)
        one_pass = max(count_A, count_B)
        # Of every `world` numbers one is this process's: its own shards are passed through that much more slowly.
        epoch, position = divmod(number // self.world if self.own_shards else number, one_pass)
        rng = rng_for(self.seed, RandomUse.SAMPLE, number)
        random_B = int(rng.integers(count_B))
        augmentations = transforms.draw_augmentation(rng), transforms.draw_augmentation(rng)
        serial = self.config.serial_batches
        index = position if serial else int(self._order(epoch, one_pass)[position])
        if self.config.paired:
            return Sample(index, index, augmentations[0], augmentations[0])
        return Sample(index % count_A, index % count_B if serial else random_B, *augmentations)

    def _order(self, epoch: int, size: int) -> np.ndarray:
        return _order(self.seed, epoch, size, self.rank if self.own_shards else 0)

    def read(self, domain: int, index: int, skipped: Skipped) -> tuple[ImageFile, np.ndarray]:
        """Decodes one image of a domain and brings it to its size, before any crop.

        Args:
            domain: 0 for A, 1 for B.
            index: Which of its images.
            skipped: Takes the images that went bad since the check; under the policy "skip" the next image of the
                domain replaces such a one.

        Returns:
            The file that it came from, and its pixels [H, W, C].

        Raises:
            UserError: Under the policy "error", or as one of a pair, it went bad; under "skip" so did all that could
                replace it.
        """
        images = self.domains[domain]
        for step in range(min(len(images), _MAX_BAD_IN_A_ROW)):
            file = images.files[(index + step) % len(images)]
            try:
                return file, transforms.resize(read(file, images.pixel_format), self.config)
            except BadImageError as error:
                if self.config.on_bad_image == "error" or self.config.paired:  # a replacement would have no partner
                    raise UserError(f"{error}; it was good when training began: repair it and resume") from error
                skipped.append((str(file), error.reason))
        raise UserError(
            f"{images.files[index]} and the {len(skipped) - 1} files after it cannot be read; is the disk there?"
        )


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int, rank: int) -> np.ndarray:
    """Returns the order of one pass, int64 [size]."""
    return rng_for(seed, RandomUse.ORDER, epoch, rank).permutation(size)
