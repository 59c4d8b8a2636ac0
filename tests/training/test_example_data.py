"""Training without --data: rendered scenes, at the size of the settings, which a resumed run finds again."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from cyclegan_fast.config import DataConfig, RunConfig, TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.train import main
from cyclegan_fast.training import example_data
from cyclegan_fast.training.example_data import scene_size, with_example_data
from tests.commands import run_in_process

FLAGS = (
    "--generator resnet_1blocks --ngf 4 --ndf 4 --discriminator n_layers --n-layers 1 --load-size 36 --crop-size 32 "
    "--device cpu --workers 0 --log-every 1 --pool-size 3"
)
SMALL = FLAGS.split()


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_data, "TRAIN_IMAGES", 4)
    monkeypatch.setattr(example_data, "TEST_IMAGES", 1)


def train(*words: object) -> str:
    done = run_in_process(lambda: main([*map(str, words)]))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bare_command_trains_and_resume_alone_continues_it(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train("--out", straight, *SMALL, "--amp", "--cuda-graphs", "--max-steps", 4)
    said = train("--out", broken, *SMALL, "--amp", "--cuda-graphs", "--max-steps", 2)
    scenes = broken / "scenes_36px"
    assert f"no --data: training on 4 + 4 rendered scenes of 36x36 pixels, in {scenes}; --data FOLDER" in said
    assert {folder.name for folder in scenes.iterdir() if folder.is_dir()} >= {"trainA", "trainB", "testA", "testB"}
    with Image.open(scenes / "trainA" / "00000.jpg") as image:
        assert image.size == (36, 36)
    assert (broken / "report.html").is_file()
    assert "resume" not in (broken / "config.yaml").read_text()

    shutil.rmtree(scenes)  # they are rendered again, as they were
    said = train("--out", broken, "--resume", "--max-steps", 4, "--checkpoint-every", 0)
    assert "continuing" in said and "training on 4 + 4 rendered scenes" in said and "--data" not in said
    names = [max((out / "checkpoints").glob("step_*")) / "weights.safetensors" for out in (straight, broken)]
    a, b = map(load_file, names)
    assert names[1].parent.name == "step_00000004"
    assert all(a[key].equal(b[key]) for key in a)
    losses = [[event["losses"] for event in read_events(out) if "losses" in event] for out in (straight, broken)]
    assert losses[0] == losses[1] and len(losses[0]) == 4


@pytest.mark.parametrize("flags", ["--channels-A 1 --channels-B 1", "--direction BtoA", "--preprocess none"])
def test_scenes_go_together_with_other_settings(tmp_path: Path, flags: str) -> None:
    train("--out", tmp_path, *SMALL, *flags.split(), "--max-steps", 1)


def test_scenes_are_pairs_where_pairs_are_asked_for(tmp_path: Path) -> None:
    train("--out", tmp_path, *SMALL, "--paired", "--max-steps", 1)
    (folder,) = tmp_path.glob("scenes_*px_pairs")
    names = [sorted(path.name for path in (folder / name).iterdir()) for name in ("trainA", "trainB")]
    assert names[0] == names[1]
    assert json.loads((folder / "scenes.json").read_text())["paired"] is True


@pytest.mark.parametrize("data", [{"data": Path("x")}, {"data_A": ("x",)}, {"data_B": ("x",)}])
def test_images_that_are_named_are_used(tmp_path: Path, data: dict) -> None:
    config = TrainConfig(data=DataConfig(**data), run=RunConfig(out=tmp_path / "run"))
    assert with_example_data(config) == config
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("load", "crop", "size"), [(286, 256, 286), (64, 256, 256), (8, 8, 32), (2000, 256, 1024)])
def test_the_size_is_that_of_the_settings(load: int, crop: int, size: int) -> None:
    assert scene_size(DataConfig(load_size=load, crop_size=crop)) == size


def test_rendering_that_is_broken_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_off(_: object, jobs: list) -> None:
        assert (next(tmp_path.glob(".partial-*[!k]")) / jobs[0][0]).is_dir()
        raise KeyboardInterrupt

    config = TrainConfig(run=RunConfig(out=tmp_path))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("cyclegan_fast.data.scenes.write._run", broken_off)
        with_example_data(config)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot write the rendered scenes /dev/null/x"):
        with_example_data(replace(config, run=RunConfig(out=Path("/dev/null/x"))))


def test_a_folder_that_holds_a_run_is_refused_before_scenes_are_rendered(tmp_path: Path) -> None:
    train("--out", tmp_path, *SMALL, "--max-steps", 1)
    done = run_in_process(lambda: main(["--out", str(tmp_path)]))
    assert done.returncode == 2 and "holds a run already: continue it with --resume auto" in done.stderr
    assert not (tmp_path / "scenes_286px").exists()


def test_on_a_cpu_smaller_sizes_are_suggested(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import torch

    from cyclegan_fast.training.settings import SMALL_SIZES, suggest_smaller_sizes
    from tests.commands import train_settings

    caplog.set_level(logging.INFO)
    suggest_smaller_sizes(TrainConfig(), torch.device("cpu"))
    assert SMALL_SIZES in caplog.text
    caplog.clear()
    suggest_smaller_sizes(train_settings(SMALL_SIZES.split()), torch.device("cpu"))
    suggest_smaller_sizes(TrainConfig(), torch.device("cuda"))
    assert SMALL_SIZES not in caplog.text
