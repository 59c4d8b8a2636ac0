import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.data.scenes import (
    CLASSES,
    PALETTE,
    class_map,
    draw_scene,
    render_dataset,
    render_labels,
    render_photo,
)
from cyclegan_fast.errors import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_seed_same_files_whatever_the_processes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        render_dataset(tmp_path / name, 32, train=20, test=5, seed=5)  # 55 files: more than one process
    for name, seed in (("few", 5), ("other", 6)):
        render_dataset(tmp_path / name, 32, train=1, test=5, seed=seed)  # few files: this process alone
    one, two, few, other = (contents(tmp_path / name) for name in ("one", "two", "few", "other"))
    assert one == two and few.keys() == other.keys()
    assert all(few[name] != other[name] for name in few if name.endswith(".jpg"))
    assert all(one[name] == content for name, content in few.items() if "test" in name)


def test_folders_facts_and_truth(tmp_path: Path) -> None:
    render_dataset(tmp_path, 48, train=3, test=2, seed=1)
    counts = {name: len(list((tmp_path / name).iterdir())) for name in ("trainA", "trainB", "testA", "testB", "truth")}
    assert counts == {"trainA": 3, "trainB": 3, "testA": 2, "testB": 2, "truth": 2}
    metadata = json.loads((tmp_path / "scenes.json").read_text())
    assert metadata["classes"] == list(CLASSES) and metadata["palette"] == PALETTE.tolist()
    assert (metadata["size"], metadata["seed"]) == (48, 1)
    for i in range(2):
        truth = np.asarray(Image.open(tmp_path / "truth" / f"{i:05d}.png"))
        labels = np.asarray(Image.open(tmp_path / "testA" / f"{i:05d}.jpg"))
        assert np.abs(labels.astype(int) - PALETTE[truth]).mean() < 4  # JPEG alone stands between the two


def test_train_scenes_differ_from_one_another_and_from_the_test(tmp_path: Path) -> None:
    numbers = range(40)
    maps = {class_map(draw_scene(0, number), 32).tobytes() for number in numbers}
    assert len(maps) == len(numbers)


@pytest.mark.parametrize("size", [32, 100, 256])
def test_a_scene_is_the_same_at_every_size(size: int) -> None:
    agree = []
    for number in range(6):
        scene = draw_scene(2, number)
        large = class_map(scene, 1024)
        centres = ((np.arange(size) + 0.5) * 1024 / size).astype(int)
        agree.append((class_map(scene, size) == large[centres[:, None], centres]).mean())
    assert np.mean(agree) > 0.97


def test_the_photo_shows_the_scene_of_the_labels() -> None:
    """Within a scene, pixels of one class look alike in the photo, and classes differ."""
    scene = draw_scene(0, 7)
    truth, photo = class_map(scene, 64), render_photo(scene, 64).astype(float)
    means = np.array([photo[truth == c].mean(axis=0) for c in np.unique(truth)])
    nearest = np.linalg.norm(photo[:, :, None] - means, axis=-1).argmin(axis=-1)
    assert (np.unique(truth)[nearest] == truth).mean() > 0.75
    assert photo.shape == (64, 64, 3) and render_labels(scene, 64).shape == (64, 64, 3)


def test_every_class_is_common_enough_to_be_learnt() -> None:
    maps = np.stack([class_map(draw_scene(0, number), 64) for number in range(100)])
    share = np.bincount(maps.ravel(), minlength=len(CLASSES)) / maps.size
    assert share.min() > 0.02 and share.max() < 0.5
    assert all((maps == c).any(axis=(1, 2)).mean() > 0.5 for c in range(len(CLASSES)))


def test_a_photo_of_1024_pixels() -> None:
    photo = render_photo(draw_scene(0, 0), 1024)
    assert photo.shape == (1024, 1024, 3) and photo.std() > 10


@pytest.mark.parametrize(("size", "train"), [(16, 1), (2048, 1), (64, 0)])
def test_sizes_and_counts_out_of_range(tmp_path: Path, size: int, train: int) -> None:
    with pytest.raises(UserError, match=r"--size|--train"):
        render_dataset(tmp_path, size, train, 1, 0)
    assert not list(tmp_path.iterdir())


def test_a_used_folder_is_not_written_over(tmp_path: Path) -> None:
    render_dataset(tmp_path, 32, 1, 1, 0)
    with pytest.raises(UserError, match="already holds files"):
        render_dataset(tmp_path, 32, 1, 1, 0)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_rendering_leaves_no_folder_that_looks_whole(tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    command = [sys.executable, "-m", "cyclegan_fast.dataset", "scenes", "--out", str(out), "--size", "64"]
    process = subprocess.Popen([*command, "--train", "20000"], start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not any(tmp_path.glob(".partial-*/trainA/*.jpg")) and time.monotonic() < end:
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
    assert any(tmp_path.glob(".partial-*/trainA/*.jpg")) and not out.exists()
    render_dataset(out, 32, 1, 1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]  # what was left behind is gone, too
    assert len(contents(out)) == 6


def test_an_empty_folder_is_taken_and_any_other_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    render_dataset(tmp_path / "empty", 32, 1, 1, 0)
    assert len(contents(tmp_path / "empty")) == 6
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="used: already holds files; name a new folder with --out"):
        render_dataset(tmp_path / "used", 32, 1, 1, 0)
    assert contents(tmp_path / "used") == {"notes.txt": b"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "used"]
