"""The folder of studies: what it refuses, and the settings of its runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.errors import UserError
from cyclegan_fast.studies.folder import StudyFolder
from cyclegan_fast.studies.scores import color_scores, one_map_scores, read_scores, variety
from cyclegan_fast.studies.variants import ABLATION, IDENTITY, Variant
from cyclegan_fast.studies.work import refuse_other_settings
from cyclegan_fast.training.process import StopSignal
from cyclegan_fast.training.trainer import Trainer


def facts(**changed: object) -> Callable[[Path], object]:
    values = {"size": 32, "steps": 1000, "train_images": 1000, "test_images": 100}
    return lambda out: (out / "studies.json").write_text(json.dumps(values | changed))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda out: (out / "notes.txt").touch(), "holds files that are not of a study; name another folder"),
        (facts(steps=10), r"holds runs of --size 32 --steps 10; give those, or another --out"),
        (facts(size=64), r"holds runs of --size 64 --steps 1000; give those"),
        (facts(train_images=7), "holds runs on other scenes, of another version; name another --out"),
        (facts(steps="many"), r"studies.json is damaged \(it.steps is not a whole number but 'many'\)"),
        (lambda out: (out / "studies.json").write_text("{"), "studies.json is damaged"),
    ],
)
def test_a_folder_with_something_else_is_refused(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        StudyFolder(tmp_path).check()
    assert "\n" not in str(refused.value)


def test_an_empty_or_missing_folder_and_one_of_its_own_are_used(tmp_path: Path) -> None:
    StudyFolder(tmp_path / "new").check()
    StudyFolder(tmp_path).check()
    facts()(tmp_path)
    StudyFolder(tmp_path).check()


@pytest.mark.parametrize(
    ("size", "steps", "message"),
    [
        (30, 9, "--size must be a multiple of 4 from 32 to 256 pixels, got 30"),
        (512, 9, "--size must be a multiple of 4 from 32 to 256 pixels, got 512"),
        (32, 0, "--steps must be at least 1, got 0"),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, size: int, steps: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        StudyFolder(tmp_path, size, steps).check()


def test_variants_differ_from_the_full_model_by_their_settings_alone(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, steps=500)
    weights = {}
    for variant in (*ABLATION.variants, *IDENTITY.variants[1:]):
        (run,) = folder.runs([variant], [4])
        config = folder.config(run)
        o = config.objective
        weights[variant.name] = (o.lambda_gan, o.lambda_A, o.lambda_B, o.lambda_identity)
        assert (config.run.seed, config.run.max_steps, config.data.crop_size) == (4, 500, 32)
        assert (config.optim.n_epochs, config.optim.n_epochs_decay) == (3, 2)
        assert config.run.out == tmp_path / "runs" / f"{variant.name}-seed4"
    assert weights == {
        "cycle-alone": (0, 10, 10, 0),
        "gan-alone": (1, 0, 0, 0),
        "gan-forward": (1, 10, 0, 0),
        "gan-backward": (1, 0, 10, 0),
        "cyclegan": (1, 10, 10, 0),
        "identity": (1, 10, 10, 0.5),
    }


def test_runs_come_seed_by_seed_and_a_one_way_variant_has_two(tmp_path: Path) -> None:
    both, one_way = Variant("both", "Both", {}), Variant("one", "One", {"model": "pix2pix"})
    folder = StudyFolder(tmp_path)
    runs = folder.runs([both, one_way], [1, 0, 1])
    assert [run.name for run in runs] == [
        *("both-seed1", "one-AtoB-seed1", "one-BtoA-seed1"),
        *("both-seed0", "one-AtoB-seed0", "one-BtoA-seed0"),
    ]
    assert runs[2].label == "One, photo → labels, seed 1" and runs[2].tasks == ("photo_to_labels",)
    config = folder.config(runs[2])
    data = config.data
    assert (data.direction, data.data, data.paired) == ("BtoA", tmp_path / "paired_scenes", True)
    assert (config.model.generator, config.model.ngf, config.objective.gan_mode) == ("resnet_3blocks", 16, "vanilla")
    assert folder.config(runs[0]).data.data == tmp_path / "scenes"


@pytest.mark.usefixtures("small")
def test_a_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    """As one that an earlier version of the studies has left."""
    render_dataset(tmp_path / "scenes", 32, 4, 2, 0)
    folder = StudyFolder(tmp_path, steps=1, device="cpu")
    before = Variant("gan-alone", "GAN alone", {"lambda_A": 0.0, "lambda_B": 3.0})
    (run,) = folder.runs([before], [0])
    Trainer(folder.config(run)).run(StopSignal())
    (run,) = folder.runs([ABLATION.find("gan-alone")], [0])
    with pytest.raises(UserError, match=r"seed0 was trained with other settings: --lambda-B was 3.0, now 0.0; "):
        refuse_other_settings(folder, run)


def test_damaged_scores_are_named(tmp_path: Path) -> None:
    (run,) = StudyFolder(tmp_path).runs(ABLATION.variants[:1], [0])
    run.folder.mkdir(parents=True)
    run.scores.write_text('{"labels_to_photo": {"pixel_accuracy": "high"}}')
    with pytest.raises(UserError, match=r"scores.json is damaged \(.*\); delete it, and the run is scored again"):
        read_scores(run)


def test_the_best_answer_for_all_scenes_by_hand() -> None:
    """Of three scenes of two pixels, one differs from the others in the second pixel."""
    truth = np.array([[[0, 1]], [[0, 1]], [[0, 2]]], np.uint8)
    assert one_map_scores(truth) == {
        "pixel_accuracy": pytest.approx(5 / 6),
        "class_accuracy": pytest.approx((1 + 1 + 0) / 3),
        "class_iou": pytest.approx((1 + 2 / 3 + 0) / 3),
    }


def test_colors_by_hand() -> None:
    """Grey 0 against grey 255 is 1 apart; two images that exchange their colours keep those of the set."""
    black, white = -torch.ones(3, 4, 4), torch.ones(3, 4, 4)
    inputs, exchanged = torch.stack([black, white]), torch.stack([white, black])
    assert color_scores(exchanged, inputs, inputs) == {"color": 0.0, "color_input": 1.0}
    assert color_scores(inputs, inputs, torch.stack([white, white])) == {"color": 0.5, "color_input": 0.0}


def test_variety_is_0_of_one_image_for_all_and_1_of_the_truth() -> None:
    truth = torch.rand(5, 3, 4, 4) * 2 - 1
    assert variety(truth, truth) == 1
    assert variety(truth[:1].expand(5, -1, -1, -1), truth) == 0
    assert variety(truth / 4 + 0.5, truth) == pytest.approx(0.25)
