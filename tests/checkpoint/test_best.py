"""Scores travel with a checkpoint, and the best one of a folder is found by them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from cyclegan_fast.checkpoint import (
    best_checkpoint,
    latest_checkpoint,
    named_checkpoint,
    read_settings,
    save_checkpoint,
)
from cyclegan_fast.checkpoint.folder import stored_scores
from cyclegan_fast.checkpoint.retention import KEEP_ALL, Retention, Scored
from cyclegan_fast.checkpoint.saving import checkpoint_contents, write_checkpoint
from cyclegan_fast.config import TrainConfig, with_settings
from cyclegan_fast.errors import MissingFileError, UserError

VALUES = [(0.1, 5.0), (0.9, 4.0), (0.5, 3.0)]  # cycle_ssim and swd
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path, networks: nn.ModuleDict, config: TrainConfig) -> Save:
    """save(step, scores, protocol): a checkpoint of the run in tmp_path, whose --score is cycle_ssim."""
    config = with_settings(config, {"score": "cycle_ssim"})

    def call(step: int, scores: dict[str, float] | None = None, protocol: str = "", keep: Retention = KEEP_ALL) -> Path:
        scored = Scored(step, scores or {}, protocol)
        contents = checkpoint_contents(scored, networks=networks, config=config, progress={})
        return write_checkpoint(tmp_path / "checkpoints", contents, keep)

    return call


def rewrite_settings(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes settings.json, and the manifest with it."""
    settings = json.loads((checkpoint / "settings.json").read_text())
    change(settings)
    content = json.dumps(settings).encode()
    (checkpoint / "settings.json").write_bytes(content)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"]["settings.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_scores_are_stored_but_for_those_that_are_no_numbers(
    tmp_path: Path, networks: nn.ModuleDict, config: TrainConfig
) -> None:
    scores = {"swd": 1.5, "cycle_l1_BtoA": 0.25, "psnr": math.inf, "color": math.nan}
    checkpoint = save_checkpoint(tmp_path, 3, networks=networks, config=config, progress={}, scores=scores)
    assert read_settings(checkpoint).scores == {"swd": 1.5, "cycle_l1_BtoA": 0.25}


def test_the_best_by_the_score_of_the_run_or_by_another_one(tmp_path: Path, save: Save) -> None:
    paths = [save(i, {"cycle_ssim": ssim, "swd": swd}) for i, (ssim, swd) in enumerate(VALUES, 1)]
    last = save(4)
    assert best_checkpoint(tmp_path) == best_checkpoint(tmp_path / "checkpoints") == best_checkpoint(last) == paths[1]
    assert best_checkpoint(tmp_path, "swd") == paths[2]
    assert best_checkpoint(tmp_path, "swd_AtoB") is None
    assert named_checkpoint(tmp_path / "best") == latest_checkpoint(tmp_path / "best") == paths[1]
    assert latest_checkpoint(tmp_path) == last
    with pytest.raises(UserError, match="unknown score 'sdw', did you mean 'swd'"):
        best_checkpoint(tmp_path, "sdw")


def test_scores_of_the_newest_protocol_count(tmp_path: Path, save: Save) -> None:
    save(1, {"cycle_ssim": 0.9}, "of 50 images")
    newer = save(2, {"cycle_ssim": 0.5}, "of 5 images")
    save(3)
    assert best_checkpoint(tmp_path) == newer


def test_the_best_is_found_beside_damaged_checkpoints_and_those_of_earlier_versions(tmp_path: Path, save: Save) -> None:
    old, damaged, best, worse = (save(i, {"cycle_ssim": 1 / i}) for i in range(1, 5))
    rewrite_settings(old, lambda settings: (settings.pop("scores"), settings.pop("protocol")))
    (damaged / "settings.json").write_bytes(b"{}")
    assert read_settings(old).scores == {}
    assert [one.scores for one in stored_scores(tmp_path / "checkpoints")[:2]] == [{}, {}]
    assert best_checkpoint(tmp_path) == best
    save(5, keep=Retention(newest=1, best=1, score="cycle_ssim", higher_is_better=True))
    assert sorted(path.name[-1] for path in (tmp_path / "checkpoints").iterdir()) == ["3", "5"]
    assert not worse.exists()


@pytest.mark.parametrize("scores", ["high", {"swd": "low"}, {"swd": None}, [1.0]])
def test_scores_of_another_kind_are_damage(save: Save, scores: Any) -> None:
    checkpoint = save(1)
    rewrite_settings(checkpoint, lambda settings: settings.update(scores=scores))
    with pytest.raises(UserError, match=r"settings\.json is damaged: it\.scores"):
        read_settings(checkpoint)


def test_a_path_called_best_is_a_checkpoint_a_folder_or_nothing(tmp_path: Path, save: Save) -> None:
    assert named_checkpoint(tmp_path / "best") == tmp_path / "best"
    with pytest.raises(MissingFileError, match="there is no checkpoint here"):
        read_settings(tmp_path / "best")
    renamed = save(1, {"cycle_ssim": 0.5}).rename(tmp_path / "best")
    save(2, {"cycle_ssim": 0.9})
    assert latest_checkpoint(tmp_path / "best") == renamed, "what has that name comes first"
