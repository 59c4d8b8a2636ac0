"""configs/: each recipe holds the paper's settings, flags override it, and it trains on its stand-in."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from cyclegan_fast.config import TrainConfig, to_dict
from cyclegan_fast.data.scenes import KINDS, render_dataset
from cyclegan_fast.documents import parse_yaml
from cyclegan_fast.train import main, resolve
from tests.commands import run_in_process, train_settings

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
TINY = "--generator resnet_1blocks --ngf 4 --ndf 4 --load-size 32 --crop-size 32 --workers 0 --device cpu --max-steps 1"
SHARED = {  # appendix 7.1 and section 4
    **{"optim.lr": 2e-4, "optim.beta1": 0.5, "optim.beta2": 0.999, "optim.n_epochs": 100, "optim.n_epochs_decay": 100},
    **{"optim.lr_policy": "linear", "optim.batch_size": 1, "objective.lambda_A": 10.0, "objective.lambda_B": 10.0},
    **{"objective.gan_mode": "lsgan", "objective.pool_size": 50, "model.norm": "instance", "model.ngf": 64},
    **{"model.ndf": 64, "model.discriminator": "basic", "data.direction": "AtoB", "data.flip": True},
}
AT_256 = {
    **{"model.generator": "resnet_9blocks", "data.preprocess": "resize_and_crop"},
    **{"data.load_size": 286, "data.crop_size": 256},
}
PAPER = {
    "style": {**AT_256, "objective.lambda_identity": 0.5},
    "transfiguration": {**AT_256, "objective.lambda_identity": 0.0},
    "seasons": {**AT_256, "objective.lambda_identity": 0.0},
    "enhancement": {
        **{**AT_256, "data.preprocess": "scale_width_and_crop", "data.load_size": 360},
        "objective.lambda_identity": 0.5,
    },
    "labels": {
        **{"model.generator": "resnet_6blocks", "data.preprocess": "resize_and_crop"},
        **{"data.load_size": 143, "data.crop_size": 128, "objective.lambda_identity": 0.0},
    },
}


def flat(values: dict) -> dict:
    return {f"{group}.{name}": value for group, settings in values.items() for name, value in settings.items()}


def test_there_is_a_recipe_for_each_use() -> None:
    assert {path.stem for path in CONFIGS.iterdir()} == set(PAPER) == set(KINDS) - {"geometry"}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_holds_the_settings_of_the_paper(name: str) -> None:
    settings = flat(to_dict(resolve(CONFIGS / f"{name}.yaml", {})))
    expected = SHARED | PAPER[name]
    assert {key: settings[key] for key in expected} == expected


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_sets_what_matters_in_words_that_exist(name: str) -> None:
    given = parse_yaml((CONFIGS / f"{name}.yaml").read_bytes())
    known = {f.name: {g.name for g in fields(getattr(TrainConfig(), f.name))} for f in fields(TrainConfig)}
    assert all(set(settings) <= known[group] for group, settings in given.items())
    # stated by the file itself, whatever the defaults become
    assert set(PAPER[name]) | {"optim.lr", "optim.n_epochs", "optim.n_epochs_decay"} <= set(flat(given))


@pytest.mark.parametrize("name", PAPER)
def test_the_command_of_a_recipe_is_one_and_flags_override_it(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    (line,) = [line[1:].strip() for line in path.read_text("utf-8").splitlines() if line.startswith("#   python -m ")]
    words = shlex.split(line.removeprefix("python -m cyclegan_fast.train"))
    assert words[:2] == ["--config", f"configs/{name}.yaml"]
    settings = train_settings(["--config", str(path), *words[2:], "--lambda-identity", "0.25", "--crop-size", "64"])
    assert settings.objective.lambda_identity == 0.25 and settings.data.crop_size == 64
    assert settings.data.load_size == PAPER[name]["data.load_size"]
    assert settings.data.data == Path(words[3]) and settings.run.out == Path(words[5])


@pytest.mark.parametrize("name", KINDS)
def test_a_recipe_trains_on_its_stand_in(name: str, tmp_path: Path) -> None:
    render_dataset(tmp_path / "data", 32, 2, 2, 0, name)
    config = CONFIGS / f"{'transfiguration' if name == 'geometry' else name}.yaml"
    words = ["--config", str(config), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    done = run_in_process(lambda: main([*words, *shlex.split(TINY)]))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step_00000001").is_dir()
