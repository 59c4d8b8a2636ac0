"""Training samples by number: what the n-th is made of, and its images.

Nothing here has a memory. Sample n of the endless stream draws all that is random in it from (seed, n), so every
loader gives the same samples, whatever its number of workers, and a stream taken up again at sample n goes on as if
it had never stopped.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.decode import BadImageError, Form, read
from cyclegan_fast.data.sources import Source
from cyclegan_fast.data.streams import Purpose, stream
from cyclegan_fast.errors import UserError

_MOST_BAD_IN_A_ROW = 100  # files; more than that and the disk is gone, not a file

Skipped = list[tuple[str, str]]  # (source, reason) of each image that went bad


@dataclass(frozen=True)
class Domain:
    """The images of one side, all of them checked."""

    sources: Sequence[Source]
    sizes: Sequence[transforms.Size]
    """Upright width and height of each, in pixels."""
    form: Form
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
    """

    def __init__(self, config: DataConfig, domain_A: Domain, domain_B: Domain, seed: int) -> None:
        self.config, self.seed = config, seed
        self.domains = domain_A, domain_B

    def __len__(self) -> int:
        """One pass: as many samples as the larger domain has images."""
        return max(self.counts)

    @property
    def counts(self) -> tuple[int, int]:
        """Images of A and of B."""
        return len(self.domains[0].sources), len(self.domains[1].sources)

    def pick(self, number: int) -> Picked:
        """Draws everything that is random in a sample, from the seed and its number alone."""
        size_A, size_B = self.counts
        epoch, position = divmod(number, len(self))
        rng = stream(self.seed, Purpose.SAMPLE, number)
        b = int(rng.integers(size_B))
        draw_A, draw_B = transforms.draw(rng), transforms.draw(rng)
        place = position if self.config.serial_batches else int(_order(self.seed, epoch, len(self))[position])
        if self.config.paired:
            return Picked(place, place, draw_A, draw_A)
        return Picked(place % size_A, place % size_B if self.config.serial_batches else b, draw_A, draw_B)

    def read(self, domain: int, index: int, skipped: Skipped) -> tuple[Source, np.ndarray]:
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
                return source, transforms.resize(read(source, images.form), self.config)
            except BadImageError as error:
                if self.config.on_bad_image == "error" or self.config.paired:  # what stood in would have no partner
                    raise UserError(f"{error}; it was good when training began: mend it and resume") from error
                skipped.append((str(source), error.reason))
        raise UserError(
            f"{images.sources[index]} and the {len(skipped) - 1} files after it cannot be read; is the disk there?"
        )


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of one pass, int64 [size]."""
    return stream(seed, Purpose.ORDER, epoch).permutation(size)
