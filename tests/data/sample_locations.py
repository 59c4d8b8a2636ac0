"""Lists, shards and pairs of small images, and what the loaders make of them."""

from __future__ import annotations

import io
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.config import DataConfig, RunConfig, TrainConfig
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.data.locations.locations import find_images
from cyclegan_fast.errors import UserError
from tests.data.sample_images import noise


def make_images(folder: Path, count: int, seed: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        noise(40, 36, seed=seed + i).save(path)
    return paths


def make_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def png(seed: int) -> bytes:
    out = io.BytesIO()
    noise(40, 36, seed=seed).save(out, "PNG")
    return out.getvalue()


def side_by_side(folder: Path, count: int) -> None:
    """A above 128 and B its negative, so that a pair is known by its sum."""
    folder.mkdir(parents=True)
    for i in range(count):
        left = np.asarray(noise(40, 36, seed=i))
        Image.fromarray(np.concatenate([left, 255 - left], axis=1)).save(folder / f"{i}.png")


def settings(loader_name: str, **data: Any) -> TrainConfig:
    options = {"loader": loader_name, "load_size": 36, "crop_size": 32, "workers": 0} | data
    return TrainConfig(data=DataConfig(**options), run=RunConfig(seed=3))


def batches(config: TrainConfig, count: int) -> list[dict[str, Any]]:
    with build_train_loader(config, "cpu") as loader:
        return list(islice(loader, count))


def assert_same_images(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a["A"], b["A"]) and torch.equal(a["B"], b["B"])


def refused(location: str) -> str:
    with pytest.raises(UserError) as caught:
        find_images([location])
    return str(caught.value)
