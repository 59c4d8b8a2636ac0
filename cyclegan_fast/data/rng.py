"""Random numbers that need no state: every generator is found from the seed and a number, in any order, anywhere."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_MASK = (1 << 64) - 1


class RandomUse(IntEnum):
    """What random numbers are for: those of different uses are independent."""

    SAMPLE = 0  # one training sample: which B, where to crop, whether to mirror
    ORDER = 1  # the order of one pass over the larger domain
    LAYOUT = 2  # the geometry of one synthetic scene
    PHOTO = 3  # the light, texture and noise of one synthetic photo
    SHOWN = 4  # which images of a set are shown to people
    RANK = 5  # the seed of one of several processes that train together


def rng_for(seed: int, use: RandomUse, number: int, part: int = 0) -> np.random.Generator:
    """Returns the generator for one thing: the same arguments, the same numbers, in every process.

    Philox is counter-based: (seed, number) is its key, and (part, use) the upper half of its counter, so no
    two generators overlap before 2**128 draws.
    """
    key = np.array([seed & _MASK, number & _MASK], dtype=np.uint64)
    counter = np.array([0, 0, part, int(use)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def draw_shown(total: int, count: int) -> list[int]:
    """Draws the images of a set that are shown to people: a random sample, the same for the same numbers.

    Every k-th image would show one source alone of a set whose sources take turns.

    Args:
        total: Images of the set.
        count: Images that are wanted.

    Returns:
        Up to `count` different indices below `total`, in random order.
    """
    return rng_for(0, RandomUse.SHOWN, 0).choice(total, min(count, total), replace=False).tolist() if total else []
