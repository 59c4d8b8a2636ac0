"""--resume auto takes the run's own settings; what was given and differs is an error that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.config import TrainConfig, with_settings
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.resume import checkpoint_to_continue, setting_differences
from tests.commands import train_settings

STORED = with_settings(TrainConfig(), {"generator": "resnet_1blocks", "ngf": 4, "ndf": 4, "lr": 1e-3, "max_steps": 9})


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, which has been moved since."""
    out = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_checkpoint(
        out / "checkpoints", 7, networks=build_networks(STORED.model), config=STORED, progress={"step": 7, "images": []}
    )
    return out


def settings(out: Path, words: str) -> TrainConfig:
    return train_settings(["--out", str(out), *words.split()])


def test_resume_alone_takes_the_settings_of_the_run(out: Path) -> None:
    expected = with_settings(STORED, {"out": out, "resume": "auto"})
    assert settings(out, "--resume auto") == settings(out, "--resume") == expected
    assert checkpoint_to_continue(expected) == out / "checkpoints" / "step_00000007"
    assert settings(out, "--resume --log-every 3 --max-steps none --device cpu") == with_settings(
        expected, {"log_every": 3, "max_steps": None, "device": "cpu"}
    )


def test_without_a_run_it_starts_afresh(tmp_path: Path) -> None:
    config = settings(tmp_path / "new", "--resume --ngf 8")
    assert config == with_settings(TrainConfig(), {"out": tmp_path / "new", "resume": "auto", "ngf": 8})
    assert checkpoint_to_continue(config) is None


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        ("--lr 2e-4", "--lr was 0.001, now 0.0002"),
        ("--ngf 8 --no-flip", "--ngf was 4, now 8; --flip was True, now False"),
        ("--amp", "--amp was off, now bf16"),
        ("--init-from x", "--init-from was None, now x"),
        ("--config {file}", "--lr was 0.001, now 0.01"),
    ],
)
def test_what_is_given_and_differs_is_refused(out: Path, tmp_path: Path, words: str, difference: str) -> None:
    (tmp_path / "c.yaml").write_text("optim: {lr: 0.01}\nrun: {log_every: 5}")
    config = settings(out, f"--resume {words.format(file=tmp_path / 'c.yaml')}")
    with pytest.raises(UserError) as refused:
        checkpoint_to_continue(config)
    assert f"trained with other settings: {difference}; leave" in str(refused.value)
    assert f"--init-from {out} --out ANOTHER" in str(refused.value)


def test_a_run_is_not_trained_over(out: Path) -> None:
    with pytest.raises(UserError, match="holds a run already: continue it with --resume auto, or choose another"):
        checkpoint_to_continue(settings(out, ""))


@pytest.mark.parametrize(
    ("changed", "count"),
    [
        ({"n_epochs": 3, "loader": "torch", "workers": 3, "data": Path("x"), "seed": 0}, 0),
        ({"seed": 1}, 1),
        ({"channels_A": 1, "lambda_A": 3.0}, 2),
    ],
)
def test_settings_of_the_python_api_are_compared_as_a_whole(changed: dict[str, Any], count: int) -> None:
    assert len(setting_differences(STORED, with_settings(STORED, changed))) == count
    assert len(setting_differences(STORED, TrainConfig())) == 4  # generator, ngf, ndf, lr
