"""What the loader "cache" has beyond the contract of test_loader.py, and how `--loader auto` chooses."""

import logging
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch

from cyclegan_fast.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig, check_ranges
from cyclegan_fast.data import Loader, build_train_loader
from cyclegan_fast.data.loaders import LOADERS, cache, cache_memory
from cyclegan_fast.data.loaders.samples import Samples, Skipped
from cyclegan_fast.errors import UserError
from tests.data.sample_images import noise

MODES = ["resize_and_crop", "scale_width_and_crop", "crop", "none", "scale_width"]


def settings(folder: Path, *, batch_size: int = 1, channels_B: int = 3, **data: Any) -> TrainConfig:
    values = {"load_size": 36, "crop_size": 32, "workers": 0, "cache_share": 1.0} | data
    return TrainConfig(
        data=DataConfig(data=folder, **values),
        model=ModelConfig(channels_B=channels_B),
        optim=OptimConfig(batch_size=batch_size),
        run=RunConfig(seed=3),
    )


def build(config: TrainConfig, loader: str) -> Loader:
    return build_train_loader(replace(config, data=replace(config.data, loader=loader)), "cpu")


def assert_equal_streams(config: TrainConfig, n: int) -> None:
    ours, torchs = build(config, "cache"), build(config, "torch")
    assert ours.name == "cache" and torchs.name == "torch"
    for a, b in zip(islice(ours, n), islice(torchs, n), strict=True):
        assert a["paths_A"] == b["paths_A"] and a["paths_B"] == b["paths_B"]
        for side in ("A", "B"):
            assert torch.equal(a[side], b[side]) and a[side].stride() == b[side].stride()
    assert ours.skipped == torchs.skipped


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_batches_are_those_of_the_workers_bit_for_bit(good_folder: Path, mode: str, batch_size: int) -> None:
    if mode in ("none", "scale_width") and batch_size > 1:
        pytest.skip("images of several sizes do not fit one batch")
    config = settings(good_folder, preprocess=mode, batch_size=batch_size, channels_B=1)
    assert_equal_streams(replace(config, run=RunConfig(seed=5)), 12)
    assert_equal_streams(replace(config, run=RunConfig(seed=5, channels_last=False)), 5)


def test_stand_ins_are_those_of_the_workers(good_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(good_folder, preprocess="crop", crop_size=32, on_bad_image="skip")
    ours, torchs = build(config, "cache"), build(config, "torch")
    for name in ("trainA/4.jpg", "trainA/5.jpg", "trainB/4.jpg"):  # a stand-in has another size; the last is the first
        (good_folder / name).write_bytes(b"")
    noise(70, 60, seed=9).save(good_folder / "trainA" / "2.jpg")  # another size than at the check
    for a, b in zip(islice(ours, 20), islice(torchs, 20), strict=True):
        assert a["paths_A"] == b["paths_A"] and a["paths_B"] == b["paths_B"]
        assert torch.equal(a["A"], b["A"]) and torch.equal(a["B"], b["B"])
    assert ours.skipped == torchs.skipped and len(ours.skipped) == 3


def test_files_are_read_once_and_never_again(good_folder: Path) -> None:
    loader, whole = build(settings(good_folder), "cache"), build(settings(good_folder), "torch")
    expected = list(islice(whole, 20))
    loader.prepare()
    for path in good_folder.rglob("*.jpg"):
        path.unlink()
    got = list(islice(loader, 12))
    loader.load_state_dict({"sample": 12})
    got += islice(loader, 8)
    assert all(torch.equal(a["A"], b["A"]) and torch.equal(a["B"], b["B"]) for a, b in zip(got, expected, strict=True))


def test_a_cancelled_start_ends_early_and_begins_anew(good_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader, read, reads = build(settings(good_folder), "cache"), Samples.read, []

    def slow_read(samples: Samples, domain: int, index: int, skipped: Skipped) -> Any:
        reads.append(index)
        time.sleep(0.05)
        return read(samples, domain, index, skipped)

    monkeypatch.setattr(Samples, "read", slow_read)
    asked = iter([False, True])
    loader.prepare(lambda: next(asked))
    assert len(reads) <= 4 and list(asked) == []
    monkeypatch.undo()
    assert torch.equal(next(loader)["A"], next(build(settings(good_folder), "torch"))["A"])


def test_the_first_bad_file_is_named(good_folder: Path) -> None:
    loader = build(settings(good_folder), "cache")
    for i in (5, 2, 6):
        (good_folder / "trainA" / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"trainA/2\.jpg: the file is empty; it was good when training began"):
        loader.prepare()


def test_blocks_hold_whole_images() -> None:
    full = cache_memory.BLOCK_BYTES
    blocks, positions = cache_memory.lay_out([10, full - 32, 16, 1, full + 5, 7])
    assert blocks == [full, 16, full + 16, 16]
    assert positions == [(0, 0), (0, 16), (0, full - 16), (1, 0), (2, 0), (3, 0)]
    assert cache_memory.lay_out([]) == ([], [])


def test_the_choices_are_the_loaders() -> None:
    assert set(get_args(get_type_hints(DataConfig)["loader"])) == {"auto", *LOADERS}


def test_the_size_is_known_beforehand(good_folder: Path) -> None:
    data = DataConfig(data=good_folder, load_size=36, crop_size=32, cache_share=1.0, workers=0)
    loader = build_train_loader(TrainConfig(data=replace(data, loader="cache")), "cpu")
    assert isinstance(loader, cache.CacheLoader)
    loader.prepare()
    assert loader._cached is not None
    images = [image for cached in loader._cached for image in cached.images]
    assert len(images) == 12 and all(image.shape == (36, 36, 3) for image in images)
    assert loader.budget.needed == 12 * 3888  # 36 * 36 * 3, a multiple of 16
    assert len({image.untyped_storage().data_ptr() for image in images}) == 2


def test_the_host_caches_what_the_device_cannot(good_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = build(settings(good_folder, cache_share=0.5), "torch").samples
    gpu, host = torch.device("cuda", 0), torch.device("cpu")
    free = {gpu: 100_000, host: 100_000}
    monkeypatch.setattr(cache_memory, "free_memory", free.__getitem__)
    assert cache_memory.find_memory(samples, gpu).device == gpu
    free[gpu] = 90_000
    budget = cache_memory.find_memory(samples, gpu)
    assert budget.device == host and str(budget) == "both domains take 47 kB of 100 kB free in host memory"
    free[host] = 93_000
    budget = cache_memory.find_memory(samples, gpu)
    assert budget.device is None
    assert str(budget) == (
        "both domains take 47 kB decoded, more than --cache-share 0.5 of 90 kB free in the memory of cuda:0 and "
        "93 kB free in host memory"
    )


@pytest.fixture
def _ten_gb_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_memory, "free_memory", lambda device: 10**10)


@pytest.mark.usefixtures("_ten_gb_free")
def test_auto_takes_the_cache_where_it_fits_and_logs_it(good_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with build_train_loader(settings(good_folder), "cpu") as loader:
        assert loader.name == "cache"
    assert caplog.messages == ["loader: cache (both domains take 47 kB of 10 GB free in host memory)"]


@pytest.mark.usefixtures("_ten_gb_free")
def test_auto_takes_the_workers_where_it_does_not_and_logs_why(
    good_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = settings(good_folder, cache_share=1e-12, workers=1)
    with build_train_loader(config, "cpu") as loader:
        assert loader.name == "torch"
    (line,) = caplog.messages
    assert line.startswith("loader: torch (1 worker process; not cache: both domains take 47 kB decoded, more than ")
    assert line.endswith("more than --cache-share 1e-12 of 10 GB free in host memory)")


@pytest.mark.usefixtures("_ten_gb_free")
def test_a_cache_that_does_not_fit_is_one_sentence(good_folder: Path) -> None:
    config = settings(good_folder, cache_share=1e-12)
    with pytest.raises(UserError) as error:
        build(config, "cache")
    assert str(error.value) == (
        "--loader cache: both domains take 47 kB decoded, more than --cache-share 1e-12 of 10 GB free in host "
        "memory; raise --cache-share, or lower --load-size"
    )
    with pytest.raises(UserError, match=r"--cache-share must be from 0 to 1, got 1\.5"):
        check_ranges(settings(good_folder, cache_share=1.5))
