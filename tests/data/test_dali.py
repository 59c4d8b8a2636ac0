"""What the loader dali has beyond the contract of all loaders, which test_loader.py holds."""

import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.data import Loader, build_train_loader
from cyclegan_fast.data.loaders.dali_files import decodable_size
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError
from tests.data.sample_images import ODD_FILES, PLAIN_FILES, noise, oriented, photo_folder, png_header

MODES = ["resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none"]


@pytest.fixture(autouse=True)
def _needs_dali() -> None:
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")


def settings(folder: Path, loader: str, batch: int = 1, **data: Any) -> TrainConfig:
    options = {"loader": loader, "load_size": 96, "crop_size": 88, "workers": 1} | data
    return TrainConfig(
        data=DataConfig(data=folder, **options), optim=OptimConfig(batch_size=batch), run=RunConfig(seed=3)
    )


def take(loader: Loader, n: int) -> list[dict[str, Any]]:
    with loader:
        return list(islice(loader, n))


def levels_apart(config: TrainConfig, n: int) -> torch.Tensor:
    """Mean difference of each image from what the loader torch gives, in levels of 255."""
    torchs = replace(config, data=replace(config.data, loader="torch", workers=0))
    pairs = zip(take(build_train_loader(config, "cpu"), n), take(build_train_loader(torchs, "cpu"), n), strict=True)
    apart = []
    for ours, theirs in pairs:
        for side in "AB":
            assert ours[f"paths_{side}"] == theirs[f"paths_{side}"] and ours[side].shape == theirs[side].shape
            assert ours[side].stride() == theirs[side].stride()
            apart += [(a - b).abs().mean() * 127.5 for a, b in zip(ours[side], theirs[side], strict=True)]
    return torch.stack(apart)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("load_size", [96, 300])  # most become smaller, most become larger
def test_same_images_as_the_loader_torch(photos: Path, mode: str, load_size: int) -> None:
    apart = levels_apart(settings(photos, "dali", preprocess=mode, load_size=load_size), 12)
    print(f"{mode} at {load_size}: {apart.mean():.3f} levels, at most {apart.max():.3f}")
    assert apart.max() < 0.5  # 0.2 is seen; without antialiasing it is 0.8 and more
    if mode == "crop":
        assert apart.max() == 0


@pytest.mark.parametrize("mode", ["resize_and_crop", "crop", "scale_width_and_crop"])
def test_odd_batches_of_mixed_sizes_and_grey(photos: Path, mode: str) -> None:
    config = replace(settings(photos, "dali", batch=3, preprocess=mode), model=ModelConfig(channels_A=1))
    assert levels_apart(config, 5).max() < 0.6


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation(tmp_path: Path, suffix: str) -> None:
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        for orientation in range(1, 9):
            oriented(tmp_path / f"train{side}" / f"{orientation}.{suffix}", orientation)
    assert levels_apart(settings(tmp_path, "dali", preprocess="crop", crop_size=60), 8).max() == 0


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        for name, write in ODD_FILES.items():
            write(tmp_path / f"train{side}" / name)
    return tmp_path


@pytest.mark.filterwarnings("ignore:animated files")
@pytest.mark.parametrize("channels", [1, 3])
def test_every_other_image_is_decoded_by_the_one_rule(
    odd_folder: Path, channels: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(settings(odd_folder, "dali", crop_size=96), model=ModelConfig(channels_A=channels))
    n = len(ODD_FILES)
    with caplog.at_level(logging.WARNING):
        assert levels_apart(config, 2 * n).max() == 0
    (message,) = [record.getMessage() for record in caplog.records if "Pillow decodes such" in record.getMessage()]
    assert message.startswith(f"{2 * n} of the first {2 * n} images are no ordinary 8-bit JPEG or PNG")


def test_which_files_dali_may_decode(tmp_path: Path) -> None:
    for name, (write, size) in PLAIN_FILES.items():
        write(tmp_path / name)
        assert decodable_size((tmp_path / name).read_bytes()) == size, name
    for name, odd in ODD_FILES.items():
        odd(tmp_path / name)
        assert decodable_size((tmp_path / name).read_bytes()) is None, name
    for bad in (b"", b"text", b"\xff\xd8\xff\xd9", png_header(30_000, 30_000), png_header(8, 8)[:-1]):
        assert decodable_size(bad) is None
    for name in ("rgb.png", "ycbcr.jpg"):
        content = (tmp_path / name).read_bytes()
        assert decodable_size(content[: len(content) // 2]) is None
    content = bytearray((tmp_path / "rgb.png").read_bytes())
    content[len(content) // 2] ^= 1
    assert decodable_size(bytes(content)) is None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _scratch(path: Path) -> None:
    """Damages a progressive JPEG so that neither DALI nor Pillow can decode it, though both its ends are there."""
    noise(64, 64).save(path, progressive=True)
    content = path.read_bytes()
    scan = content.rindex(b"\xff\xc4")  # the table of the last scan
    path.write_bytes(content[: scan + 4] + b"\xee" * 40 + content[scan + 44 :])


@pytest.mark.parametrize("spoil", [_cut, _scratch, Path.unlink])
@pytest.mark.parametrize("batch", [1, 3])
def test_file_that_goes_bad_in_the_middle(good_folder: Path, batch: int, spoil: Callable[[Path], None]) -> None:
    bad = good_folder / "trainA" / "4.jpg"
    config = settings(good_folder, "dali", batch, load_size=36, crop_size=32, on_bad_image="skip")
    strict = replace(config, data=replace(config.data, on_bad_image="error"))
    torchs = replace(config, data=replace(config.data, loader="torch", workers=0))
    loaders = [build_train_loader(one, "cpu") for one in (config, torchs, strict)]
    spoil(bad)
    ours, theirs = (take(loader, 12) for loader in loaders[:2])
    assert [b["paths_A"] for b in ours] == [b["paths_A"] for b in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert (a["A"] - b["A"]).abs().mean() < 0.6 / 127.5 and (a["B"] - b["B"]).abs().mean() < 0.6 / 127.5
    assert loaders[0].skipped == loaders[1].skipped and list(loaders[0].skipped) == [str(bad)]
    with pytest.raises(UserError, match=r"trainA/4\.jpg: .*it was good when training began") as error:
        take(loaders[2], 12)
    before = loaders[2].state_dict()["sample"]  # everything before the bad one was delivered
    assert all(str(bad) not in str(b["paths_A"]) for b in ours[: before // batch]) and "\n" not in str(error.value)


def test_resume_in_the_middle_of_an_epoch(good_folder: Path) -> None:
    config = settings(good_folder, "dali", batch=3, load_size=36, crop_size=32)
    whole = take(build_train_loader(config, "cpu"), 9)
    first = build_train_loader(config, "cpu")
    take(first, 4)
    again = take(first, 2)  # a closed loader starts again where it stood
    second = build_train_loader(config, "cpu")
    take(second, 1)
    second.load_state_dict(first.state_dict())
    for a, b in zip(again + take(second, 3), whole[4:], strict=True):
        assert a["paths_A"] == b["paths_A"] and torch.equal(a["A"], b["A"]) and torch.equal(a["B"], b["B"])


def test_batches_stay_as_they_were(good_folder: Path) -> None:
    """DALI must not write into memory that it has handed over."""
    with build_train_loader(settings(good_folder, "dali", load_size=36, crop_size=32), "cpu") as loader:
        raws = list(islice(loader.start(0), 20))
        held = [torch.from_dlpack(raw["A"].as_tensor()) for raw in raws]
        copies = [pixels.clone() for pixels in held]
        list(islice(loader.start(0), 20))
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))


def _threads() -> set[str]:
    """Of this process; not a number, since those of earlier tests may end meanwhile."""
    return {task.name for task in Path("/proc/self/task").iterdir()}


def _held() -> set[str]:
    """The threads and open files of this process."""
    gc.collect()
    files = set()
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            files.add(f"{number.name}: {number.readlink()}")
    return _threads() | files


def test_restarts_leave_nothing_behind(good_folder: Path) -> None:
    loader = build_train_loader(settings(good_folder, "dali", load_size=36, crop_size=32, workers=3), "cpu")
    take(loader, 2)
    held, threads = _held(), _threads()
    for start in range(5):
        loader.load_state_dict({"sample": start})
        next(loader)
    assert _threads() - threads  # one pipeline has its own
    loader.close()
    assert not _held() - held
    next(build_train_loader(settings(good_folder, "dali", load_size=36, crop_size=32), "cpu"))  # never closed
    for _ in range(200):  # a thread that still reads holds the loader
        if not _held() - held:
            break
        time.sleep(0.02)
    assert not _held() - held


@pytest.mark.parametrize(("cuda", "package"), [("12.8", "cuda120"), ("13.0", "cuda130"), (None, "cuda130")])
def test_missing_package_is_named(
    good_folder: Path, monkeypatch: pytest.MonkeyPatch, cuda: str | None, package: str
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # as if it were not there
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(UserError, match=rf"--loader dali: .*pip install 'cyclegan-fast\[dali.*nvidia-dali-{package}"):
        build_train_loader(settings(good_folder, "dali", load_size=36, crop_size=32), "cpu")


@pytest.fixture(scope="module")
def fresh_process(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a process prints that has not imported DALI yet, and then wants images of 4.8 GB under a limit of 1 GB."""
    folder = tmp_path_factory.mktemp("fresh")
    for name in ("trainA", "trainB"):
        (folder / name).mkdir()
        noise(48, 40).save(folder / name / "0.jpg")
    code = f"""
import resource, sys
from dataclasses import replace
from pathlib import Path
from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError

data = DataConfig(data=Path({str(folder)!r}), load_size=36, crop_size=32, workers=1)
for loader in ("cache", "dali"):
    next(build_train_loader(TrainConfig(data=replace(data, loader=loader)), "cpu"))
    print("nvidia.dali" in sys.modules)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, resource.RLIM_INFINITY))
try:
    next(build_train_loader(TrainConfig(data=replace(data, loader="dali", load_size=40_000)), "cpu"))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_dali_is_imported_by_its_own_loader_alone(fresh_process: list[str]) -> None:
    assert fresh_process[:2] == ["False", "True"]


def test_memory_that_runs_out_is_one_sentence(fresh_process: list[str]) -> None:
    (message,) = fresh_process[2:]
    assert message.startswith("DALI failed: ") and message.endswith("--loader torch does without it")


def test_a_forked_process_drops_a_pipeline_without_waiting_for_its_threads(good_folder: Path) -> None:
    loader = build_train_loader(settings(good_folder, "dali", load_size=36, crop_size=32), "cpu")
    next(loader)
    child = os.fork()
    if not child:
        loader.close()
        del loader
        gc.collect()
        os._exit(0)
    for _ in range(1000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.02)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the forked process hangs")
    assert status == 0
    next(loader)  # it still works in the process that it belongs to


@pytest.mark.parametrize("workers", [None, 0, 5])
def test_threads_follow_the_workers_and_the_cores(good_folder: Path, workers: int | None) -> None:
    loader = build_train_loader(settings(good_folder, "dali", load_size=36, crop_size=32, workers=workers), "cpu")
    expected = {None: min(16, usable_cores()), 0: 1, 5: 5}[workers]
    assert loader.threads == expected
    before = _threads()
    next(loader)
    assert len(_threads() - before) >= expected
    loader.close()


def test_pixels_of_a_ppm_are_left_alone(tmp_path: Path) -> None:
    """What Pillow decodes passes through DALI unchanged at every width, the odd ones too."""
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        for i in range(4):
            noise(61 + i, 67 - i, seed=i).save(tmp_path / f"train{side}" / f"{i}.bmp")
    with build_train_loader(settings(tmp_path, "dali", preprocess="crop", crop_size=60, flip=False), "cpu") as loader:
        batch = next(loader)
    (path,) = batch["paths_A"]
    pixels = ((batch["A"][0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = np.asarray(Image.open(path))
    positions = [(y, x) for y in range(image.shape[0] - 59) for x in range(image.shape[1] - 59)]
    assert any(np.array_equal(image[y : y + 60, x : x + 60], pixels) for y, x in positions)
