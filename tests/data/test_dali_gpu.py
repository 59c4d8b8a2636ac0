"""The loader dali on a GPU: nvJPEG's images, and whether nobody reads them too early or too late."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan_fast.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.data import Loader, build_train_loader
from cyclegan_fast.errors import UserError
from tests.data.sample_images import ODD_FILES, photo_folder

pytestmark = pytest.mark.gpu

MODES = ["resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none"]
MOST_APART = 2.0  # levels of 255, as a mean over an image


@pytest.fixture(autouse=True)
def _needs_dali() -> None:
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"))


def settings(folder: Path, batch: int = 1, **data: Any) -> TrainConfig:
    options = {"loader": "dali", "load_size": 96, "crop_size": 88, "workers": 4} | data
    return TrainConfig(
        data=DataConfig(data=folder, **options), optim=OptimConfig(batch_size=batch), run=RunConfig(seed=3)
    )


def expected(config: TrainConfig, n: int) -> list[dict[str, Any]]:
    """What the loader torch gives for the same settings, on the CPU."""
    config = replace(config, data=replace(config.data, loader="torch", workers=0))
    with build_train_loader(config, "cpu") as loader:
        return list(islice(loader, n))


def assert_alike(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], most: float = MOST_APART) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for side in "AB":
            assert a[f"paths_{side}"] == b[f"paths_{side}"] and a[side].stride() == b[side].stride()
            assert a[side].device.type == "cuda" and a[side].dtype == torch.float32
            for mine, yours in zip(a[side].cpu(), b[side], strict=True):
                apart = float((mine - yours).abs().mean()) * 127.5
                assert apart <= most, f"{a[f'paths_{side}']}: {apart:.2f} levels apart"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("load_size", [96, 300])
def test_same_images_as_the_loader_torch(photos: Path, mode: str, load_size: int) -> None:
    config = settings(photos, preprocess=mode, load_size=load_size)
    with build_train_loader(config, "cuda") as loader:
        assert_alike(list(islice(loader, 12)), expected(config, 12))


@pytest.mark.parametrize("mode", ["resize_and_crop", "crop", "scale_width_and_crop"])
def test_odd_batches_of_mixed_sizes_and_grey(photos: Path, mode: str) -> None:
    config = replace(settings(photos, batch=3, preprocess=mode), model=ModelConfig(channels_A=1))
    with build_train_loader(config, "cuda") as loader:
        assert_alike(list(islice(loader, 5)), expected(config, 5))


@pytest.mark.filterwarnings("ignore:animated files")
def test_what_pillow_decodes_comes_through_unchanged(tmp_path: Path) -> None:
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        for name, write in ODD_FILES.items():
            write(tmp_path / f"train{side}" / name)
    config = settings(tmp_path, preprocess="crop", crop_size=60)
    n = len(ODD_FILES)
    with build_train_loader(config, "cuda") as loader:
        assert_alike(list(islice(loader, n)), expected(config, n), most=1e-3)


def late(loader: Loader, n: int) -> Iterator[dict[str, Any]]:
    """Batches that are read long after they were asked for: the current stream is always behind."""
    for _ in range(n):
        torch.cuda._sleep(20_000_000)  # about 10 ms
        yield next(loader)


@pytest.mark.parametrize("side_stream", [False, True])
@pytest.mark.parametrize("mode", ["resize_and_crop", "scale_width_and_crop"])  # one tensor, or several
def test_a_stream_that_lags_behind_reads_the_right_images(photos: Path, side_stream: bool, mode: str) -> None:
    config = settings(photos, batch=2, preprocess=mode)
    stream = torch.cuda.Stream() if side_stream else torch.cuda.default_stream()
    with torch.cuda.stream(stream), build_train_loader(config, "cuda") as loader:
        ours = list(late(loader, 30))
    torch.cuda.synchronize()
    assert_alike(ours, expected(config, 30))


def test_close_waits_for_what_is_still_read(photos: Path) -> None:
    config = settings(photos, batch=2)
    ours = []
    for start in (0, 2, 4):
        with build_train_loader(config, "cuda") as loader:
            loader.load_state_dict({"sample": start})
            ours += list(late(loader, 1))
    assert_alike(ours, expected(config, 3))


def test_torch_never_waits_for_the_device(photos: Path) -> None:
    with build_train_loader(settings(photos, batch=2), "cuda") as loader:
        next(loader)
        torch.cuda.set_sync_debug_mode("error")
        try:
            batches = list(islice(loader, 8))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(batches) == 8


@pytest.mark.parametrize("policy", ["skip", "error"])
def test_file_that_goes_bad_in_the_middle(tmp_path: Path, policy: str) -> None:
    photo_folder(tmp_path)
    loader = build_train_loader(settings(tmp_path, on_bad_image=policy), "cuda")
    bad = tmp_path / "trainA" / "4.jpg"
    bad.write_bytes(bad.read_bytes()[:-100])
    with loader:
        if policy == "error":
            with pytest.raises(UserError, match=r"trainA/4\.jpg"):
                list(islice(loader, 7))
        else:
            assert len(list(islice(loader, 14))) == 14 and list(loader.skipped) == [str(bad)]
