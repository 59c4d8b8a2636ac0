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


def rng_for(seed: int, use: RandomUse, number: int, part: int = 0) -> np.random.Generator:
    """Returns the generator for one thing: the same arguments, the same numbers, in every process.

    Philox is counter-based: (seed, number) is its key, and (part, use) the upper half of its counter, so no
    two generators overlap before 2**128 draws.
    """
    key = np.array([seed & _MASK, number & _MASK], dtype=np.uint64)
    counter = np.array([0, 0, part, int(use)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
