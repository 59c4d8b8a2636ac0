"""Random numbers that need no memory: every stream is found from the seed and a number, in any order, anywhere."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_WORD = (1 << 64) - 1


class Purpose(IntEnum):
    """What a stream is for: streams of different purposes never meet."""

    SAMPLE = 0  # one training sample: which B, where to crop, whether to mirror
    ORDER = 1  # the order of one pass over the larger domain
    LAYOUT = 2  # the geometry of one synthetic scene
    PHOTO = 3  # the light, texture and noise of one synthetic photo


def stream(seed: int, purpose: Purpose, number: int, part: int = 0) -> np.random.Generator:
    """Returns the generator of one stream: the same arguments, the same numbers, in every process.

    Philox is counter-based: (seed, number) is its key, and (part, purpose) the upper half of its counter, so no
    two streams overlap before 2**128 draws.
    """
    key = np.array([seed & _WORD, number & _WORD], dtype=np.uint64)
    counter = np.array([0, 0, part, int(purpose)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
