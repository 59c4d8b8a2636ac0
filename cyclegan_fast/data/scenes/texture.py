"""Smooth noise that a larger image shows in more detail, and that changes nothing else."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cyclegan_fast.data.rng import RandomUse, rng_for
from cyclegan_fast.data.scenes.layout import Array, Scene


def texture(scene: Scene, size: int, *, stretch: int, finest: int = 256) -> Array:
    """Smooth noise of several octaves, float32 [size, size], about in [-1, 1].

    Every octave has a generator of its own.

    Args:
        scene: Whose noise it is.
        size: Side in pixels.
        stretch: How much wider than high its features are.
        finest: Cells of the finest octave along a side.
    """
    out = np.zeros((size, size), dtype=np.float32)
    cells, strength = 8, 0.5
    while cells <= min(size // 2, finest):
        lattice = rng_for(scene.seed, RandomUse.PHOTO, scene.number, part=cells * 8 + stretch)
        values = lattice.uniform(-1.0, 1.0, (cells, max(2, cells // stretch))).astype(np.float32)
        out += strength * np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC))
        cells, strength = cells * 2, strength * 0.85
    return out
