"""python -m cyclegan_fast.evaluate as users run it, on a checkpoint of untrained networks."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan_fast import evaluation
from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.cli import run_command
from cyclegan_fast.config import DataConfig, ModelConfig, TrainConfig
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.engine import build_engine
from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluate import evaluate
from cyclegan_fast.evaluation.scenes import load_scene_tests
from cyclegan_fast.nn import build_networks
from cyclegan_fast.version import __version__
from tests.commands import run_in_process

cached_reader = functools.cache(evaluation.train_reader)


@pytest.fixture(autouse=True)
def one_reader_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "train_reader", cached_reader)


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return run_in_process(lambda: run_command(evaluate, list(map(str, words))))


def checkpoint(folder: Path, **model: Any) -> Path:
    torch.manual_seed(0)
    small = {"generator": "resnet_1blocks", "ngf": 4, "ndf": 4, "discriminator": "pixel"}
    config = TrainConfig(model=ModelConfig(**(small | model)), data=DataConfig())  # type: ignore[arg-type]
    return save_checkpoint(folder, 1, networks=build_networks(config.model), config=config, progress={})


def test_scores_are_printed_and_written(tmp_path: Path) -> None:
    render_dataset(tmp_path / "data", 32, train=1, test=4, seed=0)
    out = tmp_path / "new" / "scores.json"
    stored = checkpoint(tmp_path / "run" / "checkpoints")
    done = run("--checkpoint", tmp_path / "run", "--data", tmp_path / "data", "--out", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    scores = json.loads(out.read_text())
    assert scores["photo_to_labels"]["pixel_accuracy"] < scores["untranslated"]["photo_to_labels"]["pixel_accuracy"]
    assert scores["ceiling"]["pixel_accuracy"] > 0.9 and scores["images"] == 4
    for row in ("photo -> labels", "labels -> photo", "untranslated", "real photos"):
        assert row in done.stdout
    assert f"{scores['photo_to_labels']['class_iou']:.3f}" in done.stdout
    assert re.fullmatch(
        r"4 test scenes of 32x32 pixels \(set \w{8}\), photos read by the reader of seed 0", scores["protocol"]
    )
    assert scores["protocol"] in " ".join(done.stdout.split())
    assert scores["run"] == str(stored) and scores["data"] == str(tmp_path / "data")
    assert scores["files"] == {name: [f"test{name}/{i:05d}.jpg" for i in range(4)] for name in "AB"}
    assert scores["version"] == __version__ and scores["engines"] == []


def test_other_scenes_are_scored_by_another_protocol(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1), ("same", 0)):
        render_dataset(tmp_path / name, 32, train=1, test=2, seed=seed)
    one, two, same = (load_scene_tests(tmp_path / name).protocol for name in ("one", "two", "same"))
    assert one == same and one.split("(set ")[1][:8] != two.split("(set ")[1][:8]


def test_a_model_of_one_direction_is_scored_in_that(tmp_path: Path) -> None:
    render_dataset(tmp_path / "data", 32, train=1, test=4, seed=0, paired=True)
    out, run_folder = tmp_path / "scores.json", checkpoint(tmp_path / "run", model="pix2pix")
    done = run("--checkpoint", run_folder, "--data", tmp_path / "data", "--out", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    scores = json.loads(out.read_text())
    assert 0 <= scores["labels_to_photo"]["pixel_accuracy"] <= 1 and "photo_to_labels" not in scores
    assert "photo -> labels" not in done.stdout and "labels -> photo" in done.stdout


def test_engines_are_scored_beside_their_checkpoint_and_may_lose_no_more_than_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    render_dataset(tmp_path / "data", 32, train=1, test=4, seed=0)
    run_folder, out = checkpoint(tmp_path / "run"), tmp_path / "scores.json"
    engine = build_engine(run_folder, tmp_path / "g.onnx", direction="BtoA")
    options: dict[str, Any] = {"out": out, "device": "cpu"}
    assert evaluate(run_folder, tmp_path / "data", engines=(engine,), **options) == 0
    scores = json.loads(out.read_text())
    for name in ("photo_to_labels", "labels_to_photo"):
        assert abs(scores[name]["pixel_accuracy"] - scores["checkpoint"][name]["pixel_accuracy"]) < 1e-3
    assert scores["engines"] == [str(engine)] and scores["checkpoint"]["protocol"] == scores["protocol"]
    assert "Engines: 4 test scenes" in capsys.readouterr().out
    assert evaluate(run_folder, tmp_path / "data", engines=(engine,), max_drop=-0.5, **options) == 2
    assert "the engine of BtoA loses" in capsys.readouterr().err
    with pytest.raises(UserError, match="is a second one of BtoA"):
        evaluate(run_folder, tmp_path / "data", engines=(engine, engine), **options)
    with pytest.raises(UserError, match="--max-drop is about engines"):
        evaluate(run_folder, tmp_path / "data", max_drop=0.1, **options)


def test_an_engine_without_an_equal_in_the_checkpoint_does_not_pass_for_one_that_was_compared(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    render_dataset(tmp_path / "data", 32, train=1, test=2, seed=0)
    engine = build_engine(checkpoint(tmp_path / "both"), tmp_path / "g.onnx", direction="BtoA")
    one_way = checkpoint(tmp_path / "run", model="pix2pix")
    with pytest.raises(UserError, match="has no generator of BtoA to compare with: leave out the engine"):
        evaluate(one_way, tmp_path / "data", engines=(engine,), max_drop=0.0, out=tmp_path / "s.json", device="cpu")


@pytest.mark.parametrize(
    ("size", "model", "reason"),
    [
        (32, {"channels_B": 1}, "grey"),
        (50, {}, "multiple of 4"),
        (48, {"generator": "unet_32"}, "needs sides that are multiples of 32; got 48 pixels"),
        (32, {"generator": "unet_64"}, "needs sides that are multiples of 64; got 32 pixels"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(tmp_path: Path, size: int, model: dict[str, Any], reason: str) -> None:
    render_dataset(tmp_path / "data", size, train=1, test=2, seed=0)
    done = run("--checkpoint", checkpoint(tmp_path / "run", **model), "--data", tmp_path / "data")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and reason in done.stderr
    assert done.stderr.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"limit": 0}, "--limit must be at least 1, got 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"out": Path("file", "scores.json")}, r"cannot write .*file/scores\.json"),
        ({"out": Path()}, "it is a folder; name a file with --out"),
    ],
)
def test_mistakes_are_reported_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], reason: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=reason):
        evaluate(tmp_path / "no checkpoint", tmp_path / "no data", **options)


def test_the_former_name_of_max_drop_still_works_and_is_reported(tmp_path):
    command = [sys.executable, "-m", "cyclegan_fast.evaluate", "--checkpoint", "x", "--data", "x", "--most-lost", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and done.stderr.splitlines() == [
        "note: --most-lost is now --max-drop; the old name goes soon",
        "error: --max-drop is about engines: name them with --engines",
    ]
