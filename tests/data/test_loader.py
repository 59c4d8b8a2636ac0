import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cyclegan_fast import ops
from cyclegan_fast.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.data import Loader, build_train_loader
from cyclegan_fast.data.catalog.manifest import Manifest
from cyclegan_fast.errors import UserError
from cyclegan_fast.images import ImageFile, load_images
from tests.data.sample_images import noise
from tests.reliability import Recorder

ConfigFor = Callable[..., TrainConfig]


@pytest.fixture
def config_for(loader_name: str) -> ConfigFor:
    """Settings for a folder, with each loader in turn."""

    def make(folder: Path, **data: Any) -> TrainConfig:
        settings = {"loader": loader_name, "load_size": 36, "crop_size": 32, "workers": 0} | data
        return TrainConfig(data=DataConfig(data=folder, **settings), run=RunConfig(seed=3))

    return make


def take(loader: Loader, n: int) -> list[dict[str, Any]]:
    return list(islice(loader, n))


def assert_same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    for a, b in zip(left, right, strict=True):
        assert a["paths_A"] == b["paths_A"] and a["paths_B"] == b["paths_B"]
        assert torch.equal(a["A"], b["A"]) and torch.equal(a["B"], b["B"])


def test_batch_contract(config_for: ConfigFor, good_folder: Path) -> None:
    config = replace(config_for(good_folder), optim=OptimConfig(batch_size=2), model=ModelConfig(channels_B=1))
    with build_train_loader(config, "cpu") as loader:
        batch = next(loader)
    assert batch["A"].shape == (2, 3, 32, 32) and batch["B"].shape == (2, 1, 32, 32)
    assert batch["A"].dtype == torch.float32 and batch["A"].is_contiguous(memory_format=torch.channels_last)
    assert -1.0 <= batch["A"].min() < -0.5 and 0.5 < batch["A"].max() <= 1.0
    levels = (batch["A"] + 1.0) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-3
    assert len(batch["paths_A"]) == len(batch["paths_B"]) == 2 and "/trainA/" in batch["paths_A"][0]


def test_one_pass_shows_every_image_of_the_larger_domain_once(config_for: ConfigFor, good_folder: Path) -> None:
    loader = build_train_loader(config_for(good_folder), "cpu")
    assert loader.epoch_size == 7
    batches = take(loader, 70)
    orders = [tuple(b["paths_A"][0] for b in batches[7 * e : 7 * e + 7]) for e in range(10)]
    assert all(len(set(order)) == 7 for order in orders) and len(set(orders)) > 5
    assert len({b["paths_B"][0] for b in batches}) == 5
    swapped = build_train_loader(config_for(good_folder, direction="BtoA"), "cpu")
    assert swapped.epoch_size == 7 and "/trainB/" in next(swapped)["paths_A"][0]


def test_serial_batches_run_in_step(config_for: ConfigFor, good_folder: Path) -> None:
    loader = build_train_loader(config_for(good_folder, serial_batches=True, epoch_size=4), "cpu")
    batches = take(loader, 9)
    assert loader.epoch_size == 4
    assert [Path(b["paths_A"][0]).stem for b in batches] == list("012345601")
    assert [Path(b["paths_B"][0]).stem for b in batches] == list("012340101")


@pytest.mark.parametrize("workers", [1, 2])
def test_same_samples_from_any_number_of_workers(
    config_for: ConfigFor, loader_name: str, good_folder: Path, workers: int
) -> None:
    before, others = torch.random.get_rng_state(), set(multiprocessing.active_children())
    with build_train_loader(config_for(good_folder, workers=workers), "cpu") as loader:
        assert_same(take(loader, 20), take(build_train_loader(config_for(good_folder), "cpu"), 20))
        started = set(multiprocessing.active_children()) - others
        assert len(started) == (workers if loader_name == "torch" else 0)
    assert not started & set(multiprocessing.active_children())
    assert torch.equal(before, torch.random.get_rng_state())  # the global generator was left alone


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_goes_on_exactly(config_for: ConfigFor, good_folder: Path, workers: int) -> None:
    whole = take(build_train_loader(config_for(good_folder), "cpu"), 25)
    with build_train_loader(config_for(good_folder, workers=workers), "cpu") as first:
        take(first, 11)
        state = first.state_dict()
    assert state == {"sample": 11}
    with build_train_loader(config_for(good_folder, workers=workers), "cpu") as second:
        take(second, 3)  # what it did before it was given its position must not matter
        second.load_state_dict(state)
        assert_same(take(second, 14), whole[11:])


def test_seeds_differ(config_for: ConfigFor, good_folder: Path) -> None:
    config = config_for(good_folder)
    one, other = (take(build_train_loader(c, "cpu"), 7) for c in (config, replace(config, run=RunConfig(seed=4))))
    assert [b["paths_A"] for b in one] != [b["paths_A"] for b in other]


@pytest.mark.fault(8)
@pytest.mark.parametrize("workers", [0, 1])
def test_vanished_file_stops_with_one_sentence(
    config_for: ConfigFor, good_folder: Path, workers: int, user_sees: Recorder
) -> None:
    with build_train_loader(config_for(good_folder, workers=workers), "cpu") as loader:
        (good_folder / "trainA" / "4.jpg").unlink()
        with pytest.raises(UserError, match=r"trainA/4\.jpg: the file does not exist") as error:
            take(loader, 8)
    user_sees(error.value)
    assert type(error.value) is UserError


@pytest.mark.fault(8)
@pytest.mark.parametrize("workers", [0, 1])
def test_vanished_file_is_skipped_and_counted(
    config_for: ConfigFor, good_folder: Path, workers: int, user_sees: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    with build_train_loader(config_for(good_folder, workers=workers, on_bad_image="skip"), "cpu") as loader:
        gone = good_folder / "trainA" / "4.jpg"
        gone.unlink()
        batches = take(loader, 14)
        assert loader.state_dict() == {"sample": 14}
        assert loader.skipped == {str(gone): "the file does not exist"}
    (warning,) = [line for line in caplog.messages if str(gone) in line]
    user_sees(warning)
    assert warning == f"{gone}: the file does not exist; left out from here on"
    assert [Path(b["paths_A"][0]).stem for b in batches].count("5") == 4  # its own two and those of file 4


@pytest.mark.fault(1, 2, 3, 5)
def test_bad_file_under_both_policies(
    config_for: ConfigFor, bad_file: Path, user_sees: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    folder, name = bad_file.parent.parent, bad_file.name
    fault = {"empty.jpg": 1, "text.jpg": 1, "bomb.png": 3, "float.tif": 5}.get(name, 2)
    with pytest.raises(UserError, match=name) as error:
        build_train_loader(config_for(folder), "cpu")
    user_sees(error.value, fault)
    loader = build_train_loader(config_for(folder, on_bad_image="skip"), "cpu")
    assert loader.epoch_size == 7
    (listed,) = [line for line in caplog.messages if name in line]
    user_sees(listed, fault)


@pytest.mark.fault(2)
@pytest.mark.skipif(not ops.extension_available(), reason="the extension, which finds the damage, is missing")
def test_damage_that_is_decoded_without_an_error(config_for: ConfigFor, good_folder: Path, user_sees: Recorder) -> None:
    """In the middle of a JPEG, which Pillow reads to its end and DALI ends a process for."""
    path = good_folder / "trainA" / "scratched.jpg"
    noise(64, 64).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:2500] + bytes(60) + content[2560:])
    with Image.open(path) as image:
        image.load()
    with pytest.raises(UserError, match=r"scratched\.jpg: damaged") as error:
        build_train_loader(config_for(good_folder), "cpu")
    user_sees(error.value)
    assert build_train_loader(config_for(good_folder, on_bad_image="skip"), "cpu").epoch_size == 7


def test_mixed_sizes_do_not_fit_one_batch(config_for: ConfigFor, good_folder: Path) -> None:
    config = config_for(good_folder, preprocess="none")
    assert next(build_train_loader(config, "cpu"))["A"].shape[-1] % 4 == 0
    with pytest.raises(UserError, match="do not fit one batch; use --batch-size 1"):
        build_train_loader(replace(config, optim=OptimConfig(batch_size=2)), "cpu")


def test_image_smaller_than_the_crop(config_for: ConfigFor, good_folder: Path) -> None:
    with pytest.raises(UserError, match="shorter side must be at least 44"):
        build_train_loader(config_for(good_folder, preprocess="crop", crop_size=44), "cpu")


def test_limits_and_missing_settings(config_for: ConfigFor, good_folder: Path) -> None:
    loader = build_train_loader(config_for(good_folder, max_dataset_size=2), "cpu")
    assert loader.epoch_size == 2 and {b["paths_A"][0][-5:] for b in take(loader, 6)} == {"0.jpg", "1.jpg"}
    with pytest.raises(UserError, match="--data is missing"):
        build_train_loader(TrainConfig(), "cpu")


@pytest.fixture(scope="module")
def ordinary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 JPEGs of mixed sizes, upright and wide, colour and grey, with a manifest: they are checked once."""
    folder = tmp_path_factory.mktemp("ordinary")
    for name in ("trainA", "trainB"):
        (folder / name).mkdir()
        for i in range(150):
            image = noise(20 + i % 13, 15 + i % 17, seed=i).resize((100 + 4 * (i % 40), 90 + 5 * (i % 30)))
            (image.convert("L") if i % 10 == 0 else image).save(folder / name / f"{i:03d}.jpg")
    manifest = Manifest(folder)
    manifest.probe([ImageFile(str(path)) for path in folder.rglob("*.jpg")])
    manifest.save()
    return folder


@pytest.mark.parametrize("mode", ["resize_and_crop", "scale_width_and_crop", "crop", "none", "scale_width"])
def test_300_ordinary_jpegs_load(config_for: ConfigFor, ordinary_folder: Path, mode: str) -> None:
    config = config_for(ordinary_folder, preprocess=mode, load_size=96, crop_size=88, workers=1)
    with build_train_loader(config, "cpu") as loader:
        for batch in take(loader, 60):
            assert batch["A"].shape[1] == 3 and batch["A"].shape[2] % 4 == batch["A"].shape[3] % 4 == 0


def test_load_images(good_folder: Path) -> None:
    paths = sorted((good_folder / "trainA").iterdir())
    assert load_images(paths[:1]).shape == (1, 3, 40, 48)
    assert load_images(paths, 1, size=(32, 24)).shape == (7, 1, 24, 32)
