"""A data set and settings so small that a run takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.api.settings import FitSettings


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of each domain."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for domain in ("trainA", "trainB"):
        (root / domain).mkdir()
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(root / domain / f"{i}.jpg")
    return root


@pytest.fixture(scope="session")
def small(images: Path) -> FitSettings:
    """Settings of a tiny run on the images."""
    return FitSettings(
        data=images,
        generator="resnet_1blocks",
        ngf=4,
        ndf=4,
        discriminator="n_layers",
        n_layers=1,
        load_size=36,
        crop_size=32,
        device="cpu",
        workers=0,
        pool_size=3,
        log_every=1,
        sample_every=2,
    )
