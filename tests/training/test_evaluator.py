"""Scores of the test images during training: when, of what, and where they are written."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.api.run import Run
from cyclegan_fast.checkpoint import best_checkpoint, load_generators
from cyclegan_fast.config import TrainConfig, with_settings
from cyclegan_fast.data.held_out import HeldOutImage
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.data.scored_images import set_digest
from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluate import evaluate
from cyclegan_fast.evaluation.faithfulness import with_noise
from cyclegan_fast.evaluation.features import FeatureNetwork
from cyclegan_fast.evaluation.scorer import SWAPPED, Scorer, Translated
from cyclegan_fast.images.tensors import to_model_range
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.train import resolve
from cyclegan_fast.training import evaluator as module
from cyclegan_fast.training.evaluator import Evaluator
from cyclegan_fast.training.process import EXIT_STOPPED, StopSignal
from cyclegan_fast.training.trainer import Trainer
from tests.commands import train_settings
from tests.smooth_images import write_smooth_images

FLAGS = (
    "--generator resnet_2blocks --ngf 4 --ndf 4 --discriminator n_layers --n-layers 1 --load-size 36 --crop-size 32 "
    "--device cpu --workers 0 --pool-size 3 --max-steps 6 --log-every 3 --sample-every 0"
)
CPU = torch.device("cpu")


def write_images(root: Path, *folders: str, count: int = 5, mode: str = "RGB") -> Path:
    rng = np.random.default_rng(0)
    for folder in folders:
        write_smooth_images(root / folder, count, rng, mode=mode)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), "trainA", "trainB", "testA", "testB")


def trainer(data: Path, out: Path, flags: str = "") -> Trainer:
    return Trainer(train_settings(["--data", str(data), "--out", str(out), *FLAGS.split(), *flags.split()]))


def score_events(out: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(out) if "scores" in event]


def test_scores_are_those_of_the_generators_of_their_step(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = trainer(data, tmp_path, "--eval-every 3 --eval-images 4 --checkpoint-every 3 --lr 0.02 --dropout")
    assert run.run() == 0
    events = score_events(tmp_path)
    assert [event["step"] for event in events] == [3, 6]
    images = run.evaluator.images
    arrays = [[image.pixels for image in side] for side in images]
    assert [len({image.name for image in side}) for side in images] == [4, 4]
    assert all(image.name.startswith(f"test{x}/") for x, side in zip("AB", images, strict=True) for image in side)
    for event in events:
        generators, _ = load_generators(tmp_path / "checkpoints" / f"step_{event['step']:08d}")

        def translated(there: str, back: str, pixels: list[np.ndarray], nets: Any = generators) -> list[Translated]:
            with torch.no_grad():
                inputs = [to_model_range(torch.from_numpy(x)[None]) for x in pixels]
                outputs = [nets[there](x) for x in inputs]  # evaluation: no dropout
                return [Translated(x[0], nets[back](x)[0], nets[back](with_noise(x))[0]) for x in outputs]

        scorer = Scorer((arrays[0], arrays[1]), CPU)
        expected = scorer.score(
            {
                "AtoB": lambda: translated("G_A", "G_B", arrays[0]),
                "BtoA": lambda: translated("G_B", "G_A", arrays[1]),
            }
        )
        assert event["scores"] == pytest.approx(expected.values, rel=1e-4)
        assert event["spreads"] == pytest.approx(expected.spreads, rel=1e-3)
        assert event["untranslated"] == pytest.approx(scorer.untranslated().values)
    digest = set_digest([*arrays[0], *arrays[1]])
    protocol = f"4 + 4 test images (set {digest}), resized to 36x36 (bicubic), the middle 32x32"
    assert all(event["protocol"] == protocol for event in events)
    assert f"scores: {protocol}; every 3 steps" in caplog.messages
    lines = [line for line in caplog.messages if line.startswith("scores after step ")]
    assert len(lines) == 2 and lines[0].endswith(f"; the best swd so far; {protocol}") and "cycle_ssim " in lines[1]
    assert events[0]["scores"]["swd"] != events[1]["scores"]["swd"]


def test_the_best_step_outlives_a_resume(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert trainer(data, tmp_path, "--eval-every 1 --max-steps 4 --lr 0.01").run() == 0
    caplog.clear()
    run = trainer(data, tmp_path, "--eval-every 2 --resume auto --max-steps 5 --lr 0.01")
    assert run.run() == 0
    scores = {event["step"]: event["scores"]["swd"] for event in score_events(tmp_path)}
    assert list(scores) == [1, 2, 3, 4, 5]
    best = min(scores, key=lambda step: scores[step])
    assert run.evaluator.best is not None and run.evaluator.best["step"] == best
    (line,) = (line for line in caplog.messages if line.startswith("scores after step 5"))
    assert ("; the best swd so far;" if best == 5 else f" after step {best};") in line
    opened = Run(tmp_path)
    assert {record["step"]: record["scores"]["swd"] for record in opened.scores} == scores
    assert opened.best_step() == best and len(opened.steps) == len(opened.losses["G_A"])
    assert opened.best_step("cycle_ssim_AtoB") in scores
    with pytest.raises(UserError, match="unknown score 'x'"):
        opened.best_step("x")
    run = trainer(data, tmp_path, "--eval-every 1 --eval-images 2 --resume auto --max-steps 6 --lr 0.01")
    assert run.run() == 0  # other images: scores that compare with none of before
    assert run.evaluator.best is not None and run.evaluator.best["step"] == 6


def test_pairs_are_scored_against_their_partners(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", "trainA", "testA", count=6)
    for name in ("train", "test"):
        (root / f"{name}B").mkdir()
        for i in range(6):
            image = Image.open(root / f"{name}A" / f"{i}.png").convert("L")
            Image.eval(image, lambda v: 255 - v).convert("RGB").save(root / f"{name}B" / f"{i}.jpg", quality=100)
    (root / "testB" / "2.jpg").write_bytes(b"damaged")
    run = trainer(root, tmp_path / "run", "--paired --eval-every 6")
    assert run.run() == 0
    a, b = run.evaluator.images
    assert [Path(x.name).stem for x in a] == [Path(x.name).stem for x in b] and len(a) == 5
    for x, y in zip(a, b, strict=True):
        gray = x.pixels @ np.array([0.299, 0.587, 0.114])
        assert np.abs(255 - gray - y.pixels[..., 0]).mean() < 6
    (event,) = score_events(tmp_path / "run")
    assert {"l1", "psnr", "ssim", "l1_AtoB", "psnr_BtoA"} <= event["scores"].keys()
    assert "5 + 5 test images that are pairs" in event["protocol"]


@pytest.mark.parametrize("folders", [("trainA", "trainB"), ("trainA", "trainB", "testA")])
def test_without_test_images_there_are_no_scores_and_one_line_that_says_so(
    tmp_path: Path, folders: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = write_images(tmp_path / "data", *folders)
    assert trainer(root, tmp_path / "run", "--eval-every 1 --max-steps 2").run() == 0
    assert score_events(tmp_path / "run") == []
    reasons = [line for line in caplog.messages if line.startswith("scores")]
    assert reasons == ["scores: none, as there are no test images of both domains (testA and testB below --data)"]


def test_pairs_without_partners_are_not_scored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_images(tmp_path / "data", "trainA", "trainB", "testA", "testB")
    (root / "testB" / "0.png").unlink()
    assert trainer(root, tmp_path / "run", "--paired --eval-every 1 --max-steps 1").run() == 0
    assert score_events(tmp_path / "run") == []
    assert any("no scores of the test images: --paired: these have no partner" in line for line in caplog.messages)


def test_images_at_locations_are_scored_where_tests_are_named(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As those below --data are; the run keeps where they are."""
    caplog.set_level(logging.INFO)
    moved = tmp_path / "moved"
    shutil.copytree(data / "testB", moved)
    located = [word for x in "AB" for word in (f"--data-{x}", str(data / f"train{x}"))]
    tests = ["--test-A", str(data / "testA"), "--test-B", str(moved)]
    flags = [*FLAGS.split(), *["--eval-every", "2", "--max-steps", "4", "--checkpoint-every", "2", "--keep-best", "1"]]
    out = tmp_path / "located"
    assert Trainer(train_settings(["--out", str(out), *located, *tests, *flags, "--sample-every", "2"])).run() == 0
    assert "sample grids: 4 test images of A and 4 test images of B" in caplog.messages
    assert trainer(data, tmp_path / "below", " ".join(flags[-8:])).run() == 0
    events, below = score_events(out), score_events(tmp_path / "below")
    assert [(e["step"], e["scores"], e["protocol"]) for e in events] == [
        (e["step"], e["scores"], e["protocol"]) for e in below
    ]
    assert best_checkpoint(out) is not None
    assert evaluate(run=out, out=tmp_path / "scores.json", device="cpu") == 0
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["data"] is None and found["protocol"] == events[0]["protocol"]
    assert {Path(name).parent for name in found["files"]["B"]} == {moved}
    assert Trainer(resolve(None, {"out": out, "resume": "auto", "max_steps": 6})).run() == 0
    assert [event["step"] for event in score_events(out)] == [2, 4, 6]
    moved.rename(tmp_path / "elsewhere")
    for act in (
        lambda: Trainer(resolve(None, {"out": out, "resume": "auto", "max_steps": 8})),
        lambda: evaluate(run=out, out=tmp_path / "scores.json", device="cpu"),
    ):
        with pytest.raises(UserError, match="moved: is not there; name a folder, a list ending in"):
            act()
    found_again = {"out": out, "resume": "auto", "max_steps": 8, "test_B": (str(tmp_path / "elsewhere"),)}
    assert Trainer(resolve(None, found_again)).run() == 0
    assert score_events(out)[-1]["protocol"] == events[0]["protocol"]


def test_a_run_of_locations_alone_has_no_scores_and_a_line_that_says_how(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    located = [word for x in "AB" for word in (f"--data-{x}", str(data / f"train{x}"))]
    Trainer(train_settings(["--out", str(tmp_path), *located, *FLAGS.split()])).close()
    assert (
        "scores: none, as there are no test images of both domains (--test-A and --test-B name them)" in caplog.messages
    )


def test_pairs_of_test_images_are_scored_as_such_where_training_takes_none(data: Path, tmp_path: Path) -> None:
    """And training, which does not see that they are, ends in the same bits."""
    flags = "--eval-every 6 --checkpoint-every 6"
    plain, paired = (
        trainer(data, tmp_path / name, f"{flags} {more}")
        for name, more in (("plain", ""), ("paired", "--eval-paired --score l1 --keep-best 1"))
    )
    assert plain.run() == paired.run() == 0
    one, two = (event for name in ("plain", "paired") for event in score_events(tmp_path / name))
    assert {"l1", "psnr_AtoB", "ssim_BtoA"} <= two["scores"].keys() - one["scores"].keys()
    assert "test images that are pairs" in two["protocol"] and "pairs" not in one["protocol"]
    weights = [net.state_dict() for net in (plain.networks, paired.networks)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert best_checkpoint(tmp_path / "paired") is not None  # by --score l1
    for run, score in (("paired", "swd"), ("plain", "l1")):  # as the run does it, or as the command wants it
        assert evaluate(run=tmp_path / run, paired=run == "plain", score=score, out=tmp_path / "s", device="cpu") == 0
        found = json.loads((tmp_path / "s").read_text())
        assert found["protocol"] == two["protocol"] and found["best"] is not None
        assert found["scored"][0]["values"] == pytest.approx(two["scores"], rel=1e-4)
        assert [Path(name).name for name in found["files"]["A"]] == [Path(name).name for name in found["files"]["B"]]


def test_test_images_that_are_no_pairs_are_one_sentence(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", "trainA", "trainB", "testA", "testB")
    (root / "testB" / "0.png").rename(root / "testB" / "x.png")
    with pytest.raises(UserError, match=r"^--eval-paired: the test images are no pairs: these have no partner of the"):
        trainer(root, tmp_path / "run", "--eval-paired")
    words = f"{FLAGS} --eval-paired --out {tmp_path / 'apart'}"
    apart = with_settings(train_settings(words.split()), locations(root, swapped=False))
    with pytest.raises(UserError, match=r"^--eval-paired: the test images are no pairs: these have no partner of the"):
        Trainer(apart)
    assert trainer(root, tmp_path / "run", "--max-steps 1").run() == 0
    with pytest.raises(UserError, match=r"^--paired: these have no partner of the same name in the other domain: "):
        evaluate(run=tmp_path / "run", paired=True, out=tmp_path / "s.json", device="cpu")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose generators learn within seconds."""
    root = tmp_path_factory.mktemp("scenes")
    render_dataset(root, 36, 60, 16, seed=0)
    for name in "AB":
        (root / "swapped").mkdir(exist_ok=True)
        (root / "swapped" / f"test{name}").symlink_to(root / f"test{'AB'.replace(name, '')}")
    return root


def locations(scenes: Path, swapped: bool) -> dict[str, tuple[str, ...]]:
    """Settings that name where the images are."""
    tests = scenes / "swapped" if swapped else scenes
    sides = {f"data_{x}": (str(scenes / f"train{x}"),) for x in "AB"}
    return sides | {f"test_{x}": (str(tests / f"test{x}"),) for x in "AB"}


def test_domains_that_are_swapped_are_pointed_at_by_generators_that_have_learned(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the first scores of a run, and by the command, with --data and without."""
    size = "--generator resnet_1blocks --ngf 8 --ndf 8 --discriminator n_layers --n-layers 2 --lr 2e-3"
    epochs = "--n-epochs 3 --n-epochs-decay 3"  # of 60 steps
    assert trainer(scenes, tmp_path / "first", f"{size} {epochs} --max-steps 358 --eval-every 0").run() == 0
    for swapped in (False, True):
        out = tmp_path / f"swapped {swapped}"
        shutil.copytree(tmp_path / "first", out)
        more = {"out": out, "resume": "auto", "max_steps": 360, "eval_every": 2, "data": None}
        caplog.clear()
        assert Trainer(resolve(None, more | locations(scenes, swapped))).run() == 0
        assert [event["step"] for event in score_events(out)] == [360]
        assert caplog.messages.count(SWAPPED) == swapped
        caplog.clear()
        for data in (None, scenes / "swapped") if swapped else (None,):
            assert evaluate(run=out, data=data, out=tmp_path / "s.json", device="cpu", limit=12) == 0
        assert sum(SWAPPED in line for line in caplog.messages) == 2 * swapped


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("exchanged", [False, True])
def test_generators_that_have_not_learned_point_at_nothing(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int, exchanged: bool
) -> None:
    words = f"--seed {seed} --eval-every 1 --max-steps 1 --eval-images 8 --out {tmp_path}"
    config = with_settings(train_settings([*FLAGS.split(), *words.split()]), locations(scenes, exchanged))
    run = Trainer(config)
    assert run.run() == 0
    assert run.evaluator.swap_checked and SWAPPED not in caplog.messages


def test_domains_of_other_channels_are_scored(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", "trainA", "testA")
    write_images(root, "trainB", "testB", mode="L")
    assert trainer(root, tmp_path / "run", "--channels-B 1 --eval-every 2 --max-steps 2").run() == 0
    (event,) = score_events(tmp_path / "run")
    assert event["scores"].keys() >= {"swd_AtoB", "swd_BtoA", "swd", "color", "cycle_l1"} and not event["untranslated"]


def test_a_memory_that_the_feature_network_fills_costs_the_scores_and_nothing_else(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    run = trainer(data, tmp_path, "--eval-every 3")
    run.evaluator.features = FeatureNetwork("full", full, None)
    assert run.run() == 0
    assert score_events(tmp_path) == []
    assert caplog.messages.count("no scores: the memory is full; --eval-every 0 leaves them out") == 1


class Clock:
    """A time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def idle_evaluator(count: int, config: TrainConfig | None = None) -> Evaluator:
    """An evaluator of `count` images of each domain that is asked when scores are due, and computes none."""
    images = [HeldOutImage("x.png", np.zeros((4, 4, 3), np.uint8))] * count
    return Evaluator(None, (images, images), config or TrainConfig())  # type: ignore[arg-type]


def test_by_default_scores_take_a_twentieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    evaluator = idle_evaluator(50)
    evaluator.begin(0, 10_000, [])
    due, cost = [], 4.0
    for epoch in range(1, 101):
        clock.now += 10.0  # 100 steps of 0.1 s
        assert not evaluator.is_due(100 * epoch - 50, epoch_ended=False, last=False)
        if evaluator.is_due(100 * epoch, epoch_ended=True, last=epoch == 100):
            due.append(epoch)
            clock.now, evaluator.spent, evaluator.last = clock.now + cost, evaluator.spent + cost, cost
    assert due[0] == 6  # 3 seconds are expected at first
    assert evaluator.spent <= 0.05 * (clock.now - 100) + cost * 0.05 and len(due) in (12, 13)
    assert {b - a for a, b in itertools.pairwise(due[1:-1])} <= {7, 8}


@pytest.mark.parametrize("seconds", [5.0, 9.0, 20.0, 40.0, 62.0, 81.0, 102.0, 133.0, 200.0])
def test_the_last_weights_are_scored_if_the_share_allows_any(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    """What it needs is left for it by the epochs before; a run without scores says so at its end."""
    caplog.set_level(logging.INFO)
    clock, evaluator, cost = Clock(monkeypatch), idle_evaluator(1), 3.0  # as is expected
    evaluator.begin(0, 100, [])
    due = []
    for step in range(1, 101):
        clock.now += seconds / 100 * 10
        if evaluator.is_due(step, epoch_ended=step % 5 == 0, last=step == 100):
            due.append(step)
            evaluator.spent, evaluator.last = evaluator.spent + cost, cost
    evaluator.end()
    possible = min(20, int(0.5 * seconds / cost))
    assert possible - 1 <= len(due) <= possible and due[-1:] == [100] * (possible > 0)
    assert evaluator.spent <= 0.5 * seconds
    reasons = [line for line in caplog.messages if line.startswith("no scores: this run is too short for them")]
    assert len(reasons) == (not due)


def test_the_first_scores_wait_for_a_run_that_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 images are 400 passes: there, back, back with noise, and by the other generator: the work of 20 steps."""
    clock = Clock(monkeypatch)
    evaluator = idle_evaluator(50)
    evaluator.begin(1000, 10_000, [])  # a run that was continued
    clock.now += 390 * 2.0
    assert not evaluator.is_due(1390, epoch_ended=True, last=True)
    clock.now += 12 * 2.0
    assert evaluator.is_due(1402, epoch_ended=True, last=False)


def test_the_first_scores_wait_for_as_long_as_their_features_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of 100 test images and of 100 translations, by the time that one took when the network was tried."""
    clock, evaluator = Clock(monkeypatch), idle_evaluator(50)
    evaluator.features = FeatureNetwork("x", lambda images: images, 299, seconds=0.1)
    evaluator.begin(0, 100_000, [])
    for epoch in range(1, 90):  # of 100 steps of 0.05 s: 1 s of translations, and 20 s of features
        clock.now += 5.0
        assert evaluator.is_due(100 * epoch, epoch_ended=True, last=False) is (epoch >= 84)  # of 420 s
    assert evaluator.expected_seconds(0.05) == pytest.approx(21.0)


def test_an_interval_of_ones_own_is_kept_whatever_it_costs() -> None:
    config = TrainConfig()
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, eval_every=5))
    evaluator = idle_evaluator(1, config)
    evaluator.begin(0, 10_000, [])
    evaluator.spent = 1e9
    due = [step for step in range(1, 13) if evaluator.is_due(step, epoch_ended=step % 3 == 0, last=step == 12)]
    assert due == [5, 10, 12]


def test_features_of_a_network_of_ones_own_are_scored(data: Path, tmp_path: Path) -> None:
    class Means(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)

    torch.export.save(torch.export.export(Means(), (torch.rand(1, 3, 16, 16),)), tmp_path / "means.pt2")
    run = trainer(data, tmp_path / "run", f"--eval-every 6 --features {tmp_path / 'means.pt2'} --score kid")
    assert run.run() == 0
    (event,) = score_events(tmp_path / "run")
    assert {"fid_AtoB", "kid", "kid_BtoA"} <= event["scores"].keys() and event["spreads"]["kid"] > 0
    digest = hashlib.sha256((tmp_path / "means.pt2").read_bytes()).hexdigest()[:8]
    few = "FID says little of fewer than 50 images: prefer KID"
    assert event["protocol"].endswith(f"; features of means.pt2 (SHA-256 {digest}) at 16x16 (bicubic); {few}")
    assert run.evaluator.best is not None


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--score fid", "--score fid compares features: name a network with --features, or choose another"),
        ("--features none.pt2", "--features none.pt2: there is no such file"),
        ("--features-size 64", "--features-size is the input of a network: name that with --features"),
    ],
)
def test_features_that_cannot_be_used_end_the_run_before_it_begins(
    data: Path, tmp_path: Path, flags: str, reason: str
) -> None:
    with pytest.raises(UserError, match=re.escape(reason)):
        trainer(data, tmp_path / "run", flags)


def test_a_stop_gives_up_scores_that_are_being_computed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run, stop = trainer(data, tmp_path, "--eval-every 2"), StopSignal()
    translate, calls = run.translator.translate, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        stop.requested = len(calls) == 3
        return translate(*arguments)

    monkeypatch.setattr(run.translator, "translate", interrupted)
    assert run.run(stop) == EXIT_STOPPED
    assert len(calls) == 3 and score_events(tmp_path) == []
    assert "scores after step 2: given up, as the run is to stop" in caplog.messages
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]


def test_images_that_the_feature_network_does_not_take_end_the_run_before_it_begins(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", "trainA", "trainB", "testA", "testB")
    program = torch.export.export(torch.nn.AdaptiveAvgPool2d(1), (torch.rand(1, 5, 16, 16),))
    torch.export.save(program, tmp_path / "five.pt2")
    with pytest.raises(UserError, match=r"--features five.pt2 takes 5 channels, and the images have 3"):
        trainer(root, tmp_path / "run", f"--features {tmp_path / 'five.pt2'}")
