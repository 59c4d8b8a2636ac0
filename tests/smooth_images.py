"""Small images without sharp edges, such as networks learn from and JPEG changes little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_smooth_images(
    folder: Path,
    count: int,
    rng: np.random.Generator,
    *,
    coarse: int = 5,
    mode: str = "RGB",
    size: tuple[int, int] = (48, 40),
) -> Path:
    """Writes 0.png, 1.png and so on: `coarse` x `coarse` random pixels, enlarged to `size`; returns the folder."""
    folder.mkdir(parents=True)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (coarse, coarse, 3), dtype=np.uint8)).convert(mode)
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder
