"""The loaders on a GPU: the same images as on the CPU, wherever the set is cached."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from cyclegan_fast.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.data.loaders import cache, cache_memory
from cyclegan_fast.training.device_batches import DeviceBatches

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("where", ["on the device", "on the host"])
@pytest.mark.parametrize("mode", ["resize_and_crop", "crop"])
def test_the_cache_gives_the_workers_batches(
    good_folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str, where: str, batch_size: int
) -> None:
    if where == "on the host":
        free = cache_memory.free_memory
        monkeypatch.setattr(cache_memory, "free_memory", lambda device: 0 if device.type == "cuda" else free(device))
    data = DataConfig(data=good_folder, preprocess=mode, load_size=36, crop_size=32, loader="cache", workers=0)  # type: ignore[arg-type]
    config = TrainConfig(data=data, optim=OptimConfig(batch_size=batch_size), run=RunConfig(seed=3))
    on_cpu = build_train_loader(replace(config, data=replace(data, loader="torch")), "cpu")
    with build_train_loader(config, CUDA) as loader:
        assert isinstance(loader, cache.CacheLoader)
        loader.prepare()
        assert loader._cached is not None
        image = loader._cached[0].images[0]
        assert image.is_cuda if where == "on the device" else image.is_pinned()
        for ours, expected in zip(islice(DeviceBatches(loader, CUDA), 20), on_cpu, strict=False):
            assert ours["paths_A"] == expected["paths_A"] and ours["A"].is_cuda
            for side in ("A", "B"):
                torch.testing.assert_close(ours[side].cpu(), expected[side], rtol=0, atol=1e-6)


def test_workers_feed_the_device(good_folder: Path) -> None:
    data = DataConfig(data=good_folder, load_size=36, crop_size=32, loader="torch", workers=2)
    config = TrainConfig(data=data, run=RunConfig(seed=3))
    with build_train_loader(config, CUDA) as loader, build_train_loader(config, "cpu") as on_cpu:
        for ours, expected in zip(islice(DeviceBatches(loader, CUDA), 20), on_cpu, strict=False):
            torch.testing.assert_close(ours["A"].cpu(), expected["A"], rtol=0, atol=1e-6)
