import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data import TrainingImage, build_train_loader, check_images
from cyclegan_fast.data.catalog import check as checks
from cyclegan_fast.data.catalog.training_image import drop
from cyclegan_fast.data.locations.folders import list_domain, list_domains, list_folder
from cyclegan_fast.errors import UserError
from cyclegan_fast.images import BadImageError, decode
from tests.data.sample_images import noise


def test_index_is_sorted_and_recursive_and_takes_images_only(good_folder: Path) -> None:
    (good_folder / "trainA" / "sub").mkdir()
    noise(32, 32).save(good_folder / "trainA" / "sub" / "deep.PNG")
    (good_folder / "trainA" / "notes.txt").write_text("no image")
    paths = list_domain(good_folder, "trainA")
    assert paths == sorted(paths) and len(paths) == 8
    assert good_folder / "trainA" / "sub" / "deep.PNG" in paths


def test_every_format_that_is_decoded_is_found(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    (tmp_path / "trainA").mkdir()
    Image.fromarray(grey).save(tmp_path / "trainA" / "deep.pgm")
    noise(32, 32).save(tmp_path / "trainA" / "palette.gif")
    noise(32, 32).convert("1").save(tmp_path / "trainA" / "bits.pbm")
    noise(32, 32).save(tmp_path / "trainA" / "photo.jfif")
    paths = list_domain(tmp_path, "trainA")
    assert [path.name for path in paths] == ["bits.pbm", "deep.pgm", "palette.gif", "photo.jfif"]
    assert [decode(path, 3).size for path in paths] == [(32, 32)] * 4


def test_direction_swaps_the_domains(good_folder: Path) -> None:
    forward, backward = list_domains(good_folder, "train"), list_domains(good_folder, "train", "BtoA")
    assert forward == backward[::-1] and len(forward[0]) == 7


def test_links_inside_are_kept_and_links_out_are_refused(
    good_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    noise(32, 32).save(outside / "secret.png")
    (good_folder / "trainA" / "again.jpg").symlink_to(good_folder / "trainA" / "0.jpg")
    assert len(list_domain(good_folder, "trainA")) == 8
    for target in (outside / "secret.png", outside):
        link = good_folder / "trainA" / "link.png"
        link.symlink_to(target)
        with pytest.raises(UserError, match=r"link\.png: this link leads out"):
            list_domain(good_folder, "trainA")
        link.unlink()


def test_missing_empty_and_equal_folders(good_folder: Path) -> None:
    with pytest.raises(UserError, match="no such data folder"):
        list_domains(good_folder / "nowhere", "train")
    (good_folder / "trainB").rename(good_folder / "other")
    with pytest.raises(UserError, match="trainB is missing"):
        list_domains(good_folder, "train")
    (good_folder / "trainB").mkdir()
    with pytest.raises(UserError, match="trainB: holds no image"):
        list_domains(good_folder, "train")
    (good_folder / "trainB").rmdir()
    (good_folder / "trainB").symlink_to(good_folder / "trainA")
    with pytest.raises(UserError, match="same folder"):
        list_domains(good_folder, "train")


def test_a_domain_in_place_of_the_data_folder(good_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cwd, given, named in (
        (good_folder.parent, good_folder / "trainA", str(good_folder)),
        (good_folder.parent, Path(good_folder.name, "trainA"), good_folder.name),
        (good_folder / "trainA", Path(), ".."),
    ):
        monkeypatch.chdir(cwd)
        with pytest.raises(UserError) as error:
            list_domains(given, "train")
        assert f"the folder trainA is missing; name {named} instead, which holds trainA and trainB" in str(error.value)


def test_check_stops_at_a_bad_file_or_leaves_it_out(bad_file: Path) -> None:
    paths = list_domain(bad_file.parent.parent, "trainA")
    with pytest.raises(UserError, match=bad_file.name) as error:
        check_images(paths)
    assert "--on-bad-image skip" in str(error.value)
    checked = check_images(paths, on_bad="skip")
    good = [image for image in checked if isinstance(image, TrainingImage)]
    assert len(good) == 7 and good[0].size == (48, 40) and [image.file.path for image in good[:1]] == [str(paths[0])]
    assert [i for i, image in enumerate(checked) if isinstance(image, BadImageError)] == [paths.index(bad_file)]


def test_check_counts_bad_files_and_knows_when_none_is_left(good_folder: Path) -> None:
    paths = list_domain(good_folder, "trainB")
    for path in paths[:2]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"0\.jpg: the file is empty \(2 bad files of 5\)"):
        check_images(paths)
    with pytest.raises(UserError, match="none of the 2 files"):
        check_images(paths[:2], on_bad="skip")


def test_check_refuses_small_images(good_folder: Path) -> None:
    with pytest.raises(UserError, match="48x40 pixels, but the shorter side must be at least 41"):
        check_images(list_domain(good_folder, "trainA"), min_side=41)


def test_large_sets_are_remembered_until_a_file_changes(good_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_MANIFEST_FROM", 3)
    paths = list_domain(good_folder, "trainA")
    first = check_images(paths, catalog_folder=good_folder)
    manifest = good_folder / ".cyclegan_fast" / "manifest.json"
    assert len(json.loads(manifest.read_text())["files"]) == 7

    before = paths[0].stat()
    paths[0].write_bytes(bytes(before.st_size))  # damaged, but with the length and time that the manifest knows
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert check_images(paths, catalog_folder=good_folder) == first
    os.utime(paths[0])
    with pytest.raises(UserError, match=r"0\.jpg"):
        check_images(paths, catalog_folder=good_folder)


def test_small_sets_leave_no_trace(good_folder: Path) -> None:
    check_images(list_domain(good_folder, "trainA"), catalog_folder=good_folder)
    assert sorted(path.name for path in good_folder.iterdir()) == ["trainA", "trainB"]


def make_run(folder: Path) -> Path:
    """What a training run leaves in its folder, as far as it matters here."""
    (folder / "samples").mkdir(parents=True)
    for name in ("config.yaml", "events.jsonl"):
        (folder / name).touch()
    noise(64, 32).save(folder / "samples" / "step_00000001.jpg")
    return folder


def test_runs_among_the_images_are_left_out(good_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = list_domain(good_folder, "trainA")
    run = make_run(good_folder / "trainA" / "runs" / "x")
    (run / "translated" / "deep").mkdir(parents=True)
    noise(48, 48).save(run / "translated" / "deep" / "0.png")
    assert list_domain(good_folder, "trainA") == before
    (message,) = caplog.messages
    assert message == f"images of training runs are left out ({run}); a run's folder is better kept elsewhere"
    assert list_folder(run / "translated") == [run / "translated" / "deep" / "0.png"]  # asked for by its name
    with pytest.raises(UserError, match=r"runs: holds no image but those of training runs; name a folder"):
        list_folder(run.parent)


@pytest.mark.parametrize("out", ["trainA/run", "trainA"])
def test_a_run_among_its_own_images_is_resumed(good_folder: Path, out: str) -> None:
    config = TrainConfig(data=DataConfig(data_A=(str(good_folder / "trainA"),), data_B=(str(good_folder / "trainB"),)))
    assert build_train_loader(config, "cpu").samples.counts == (7, 5)
    make_run(good_folder / out)
    assert build_train_loader(config, "cpu").samples.counts == (7, 5)


def test_pairs_are_dropped_together() -> None:
    error = BadImageError("x.png", "empty")
    assert drop([[1, None, 3], [4, 5, error]], paired=False) == [[1, 3], [4, 5]]
    assert drop([[1, None, 3], [4, 5, error]], paired=True) == [[1], [4]]
    with pytest.raises(UserError, match="of no pair can both images be used"):
        drop([[1, None], [None, 2]], paired=True)
