"""The quality gate: its arithmetic by hand, what it finds and what not, the checkerboard, and a small run of it all."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.quality import __main__ as quality
from benchmarks.quality import learning, page, runs
from benchmarks.quality.cases import BY_NAME, CASES, GATED, GRIDS, SCORES, train_settings
from benchmarks.quality.checkerboard import grid_energy
from benchmarks.quality.engines import ENGINES, RUNTIMES
from benchmarks.quality.gate import ALPHA, Difference, difference
from benchmarks.quality.runs import Plan
from benchmarks.results import BEGIN, END
from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.engine import build_engine, load, load_engine
from cyclegan_fast.engine.backends import aoti
from cyclegan_fast.engine.backends import torch as torch_backend
from cyclegan_fast.engine.backends.tensorrt_api import FLAVOURS
from cyclegan_fast.engine.info import PRECISIONS
from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluation import load_scene_tests, reader
from cyclegan_fast.files import try_lock


def test_the_arithmetic_by_hand() -> None:
    """Differences 1, 2 and 3 beside a baseline of 0, 1 and 5; a t of two degrees of freedom has a closed form."""
    found = difference({0: 1.0, 1: 3.0, 2: 8.0}, {0: 0.0, 1: 1.0, 2: 5.0}, higher_is_better=False)
    assert found.mean == pytest.approx(2.0)
    assert found.error == pytest.approx(1 / math.sqrt(3))  # standard deviation 1, three seeds
    assert found.spread == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / 2
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t**2)), rel=1e-9)  # 0.0371
    assert found.verdict(1) == "worse, within the spread"  # 0.0371 < 0.05, and 2 < 2.65
    assert found.verdict(2) == "undecided"  # 0.0371 > 0.025, and 2 + 2.92 * 0.577 = 3.69 > 2.65
    # The 0.999 and 0.8 quantiles of t with two degrees of freedom, from tables: 22.327 and 1.0607.
    assert found.detectable(50) == pytest.approx((22.327 + 1.0607) / math.sqrt(3) / math.sqrt(7), rel=1e-4)


def found_difference(mean: float, error: float) -> Difference:
    return Difference(mean=mean, error=error, largest=math.inf, seeds=8, spread=1.0)


def test_worse_needs_both_significance_and_more_than_the_spread() -> None:
    def judged(mean: float, error: float) -> str:
        return found_difference(mean, error).verdict(1)

    assert judged(1.1, 0.1) == "worse"
    assert judged(0.9, 0.1) == "worse, within the spread"
    assert judged(1.1, 1.0) == "undecided"
    assert judged(-3.0, 1.0) == judged(0.0, 0.1) == "no worse"


def test_higher_may_be_better_and_only_common_seeds_count() -> None:
    found = difference({0: 0.5, 1: 0.5, 7: 9.0}, {0: 0.75, 1: 0.75, 5: 0.25}, higher_is_better=True)
    assert (found.mean, found.error, found.seeds) == (0.25, 0.0, 2)
    with pytest.raises(ValueError, match="needs two seeds, and there are 1"):
        difference({0: 1.0, 1: 1.0}, {1: 1.0, 2: 1.0}, higher_is_better=True)


def test_equal_values_pass_and_a_constant_loss_of_quality_beyond_the_spread_fails() -> None:
    baseline = {0: 1.0, 1: 2.0, 2: 3.0}
    same = difference(baseline, baseline, higher_is_better=False)
    assert same.verdict(10) == "no worse"
    shifted = difference({seed: value + 1.5 for seed, value in baseline.items()}, baseline, higher_is_better=False)
    assert shifted.error == 0 and shifted.verdict(10) == "worse"


@pytest.mark.parametrize("where", ["case", "baseline"])
def test_nan_is_worse(where: str) -> None:
    values = {0: 1.0, 1: 2.0, 2: 3.0}
    broken = {**values, 1: math.nan}
    case, baseline = (broken, values) if where == "case" else (values, broken)
    assert difference(case, baseline, higher_is_better=False).verdict(10) == "worse"


@pytest.mark.parametrize("seeds", [2, 3, 8])
@pytest.mark.parametrize("loss", [0.2, 1.0, 2.0, 3.0])
def test_an_engine_fails_for_a_loss_that_varies_by_seed(seeds: int, loss: float) -> None:
    """The losses of few seeds vary so much that Student's t would find none of these among many comparisons."""
    baseline = {seed: float(seed % 3) for seed in range(8)}
    spread = difference(baseline, baseline, higher_is_better=False).spread
    factors = [0.5, 1.5, 1.0]
    case = {seed: baseline[seed] + factors[seed % 3] * loss * spread for seed in range(seeds)}
    found = difference(case, baseline, higher_is_better=False)
    assert found.mean == pytest.approx(spread * loss, rel=0.1) and found.engine_verdict() == "worse"
    if seeds < 8:
        assert found.verdict(78) != "worse"


def test_an_engine_fails_for_one_seed_alone_and_passes_what_rounding_does() -> None:
    baseline = {0: 1.0, 1: 2.0, 2: 3.0}  # a spread of 1

    def judged(*losses: float, higher_is_better: bool = False) -> str:
        sign = -1 if higher_is_better else 1
        case = {seed: baseline[seed] + sign * loss for seed, loss in enumerate(losses)}
        return difference(case, baseline, higher_is_better=higher_is_better).engine_verdict()

    assert judged(-0.5, 0.11, -0.5) == judged(-0.5, 0.11, -0.5, higher_is_better=True) == "worse"
    assert judged(0.09, -0.3, 0.09) == judged(0.0, 0.0, 0.0) == judged(-2.0, -2.0, -2.0) == "no worse"
    assert judged(0.0, math.nan, 0.0) == judged(math.nan, 0.0, 0.0) == "worse"
    for broken in ({**baseline, 2: math.nan}, dict.fromkeys(baseline, 2.0)):  # no spread that could be meant
        case = {seed: value + 0.01 for seed, value in broken.items()}
        assert difference(case, broken, higher_is_better=False).engine_verdict() == "worse"


def test_false_alarms_are_as_rare_as_stated_and_what_is_detectable_is_found() -> None:
    numbers = random.Random(1)

    def trial(shift: float) -> Difference:
        one, two = ({seed: numbers.gauss(0, 1) for seed in range(8)} for _ in "ab")
        return difference({seed: x + shift for seed, x in one.items()}, two, higher_is_better=False)

    alarms = sum(trial(0.0).p < ALPHA for _ in range(2000))
    assert 70 <= alarms <= 130  # 100 are expected, with a standard deviation of 9.7
    found = sum(trial(3.0).verdict(10) == "worse" for _ in range(500))
    assert found >= 400
    # What is said to be found 4 times in 5, where the error is small beside the spread, and where it is not.
    for error in (0.01, 0.5):
        case = found_difference(0.0, error)
        shift = case.detectable(10)
        judged = [dataclasses.replace(case, mean=shift + error * numbers.gauss(0, 1)) for _ in range(2000)]
        share = sum(one.verdict(10) == "worse" for one in judged) / len(judged)
        assert 0.74 < share < 0.9, (error, share)


def fake_results(**changes: dict[str, float]) -> dict[str, Any]:
    """Every gated case has the same values by seed, apart from the changes: case -> score -> what is added."""
    cases = {}
    for case in CASES:
        shifts = changes.get(case.name, {})
        scores = {
            score: {str(seed): 0.5 + 0.01 * ((seed * 7) % 5) + shifts.get(score, 0.0) for seed in range(8)}
            for score in SCORES
        }
        cases[case.name] = {"scores": scores}
    half = {
        score: dict.fromkeys(map(str, range(8)), 0.0 if SCORES[score].higher_is_better else 1.0) for score in SCORES
    }
    cases["control: half the images"] = {"scores": half}
    return {"size": 32, "steps": 480, "lr": 4e-4, "real": {"grid_labels": 1.0}, "cases": cases}


def test_the_gate_fails_for_what_is_worse_and_for_a_control_that_is_not_found() -> None:
    assert page.failures(fake_results()) == []
    (sentence,) = page.failures(fake_results(bf16={"cycle_A": 0.1}))
    assert sentence == "bf16: worse than fp32, by more than the spread of the seeds"
    better = {"labels_accuracy": 0.1, "cycle_A": -0.1}
    assert page.failures(fake_results(**{"--ema 0.999": better})) == []
    assert page.failures(fake_results(**{"batch 8, the same --lr": {"cycle_A": 0.1}})) == []  # a question
    sentences = page.failures(fake_results(**{"engine: ONNX Runtime int8": {"photo_iou": -0.002}}))
    assert sentences == ["engine: ONNX Runtime int8: worse than fp32, by more than 0.1 of the seeds' spread in a seed"]
    blind = fake_results()
    blind["cases"]["control: half the images"] = blind["cases"]["fp32"]
    (sentence,) = page.failures(blind)
    assert sentence.startswith("control: half the images: not found to be worse than fp32")


def test_the_gate_fails_for_a_checkerboard() -> None:
    (sentence,) = page.failures(fake_results(bf16={"grid_photos": 0.1}))
    assert sentence == "bf16: worse than fp32 in the checkerboard, by more than the spread of the seeds"
    (sentence,) = page.failures(fake_results(**{"engine: torch bf16": {"grid4_labels": 0.01}}))
    assert sentence.startswith("engine: torch bf16: worse than fp32 in the checkerboard, by more than 0.1 of the")
    (sentence,) = page.failures(fake_results(**{"--ema 0.999": {"grid_labels": math.nan}}))
    assert sentence.startswith("--ema 0.999: worse than fp32 in the checkerboard")
    assert page.failures(fake_results(**{"batch 8, --lr-rule linear": {"grid_labels": 1.0}})) == []  # a question
    blind = fake_results()  # a control that is found by its checkerboard alone is not found
    found = blind["cases"]["control: half the images"]["scores"]
    found |= {score: blind["cases"]["fp32"]["scores"][score] for score in GATED}
    assert page.failures(blind)[0].startswith("control: half the images: not found to be worse")


def test_a_checkerboard_is_a_ratio_and_compared_by_its_logarithm() -> None:
    results = fake_results()
    results["cases"]["bf16"]["scores"]["grid_labels"] = {"0": 100.0, "1": 10.0}
    results["cases"]["fp32"]["scores"]["grid_labels"] = {"0": 10.0, "1": 0.1}
    found = page.compared(results, BY_NAME["bf16"], "grid_labels")
    assert found is not None and found.mean == pytest.approx(1.5) and found.spread == pytest.approx(math.sqrt(2))
    results["cases"]["bf16"]["scores"]["grid_labels"]["1"] = 0.0  # no ratio
    assert page.verdict(results, BY_NAME["bf16"]) == "worse"
    del results["cases"]["bf16"]["scores"]["grid_labels"]  # without it nothing is judged
    assert page.verdict(results, BY_NAME["bf16"]) is None


@pytest.mark.parametrize("name", [case.name for case in CASES if case.engine])
@pytest.mark.parametrize("loss", [1.0, 2.0, 3.0])
def test_every_engine_can_fail(name: str, loss: float) -> None:
    """A loss of some spreads in the mean of as many seeds as `make quality` runs, different in each."""
    results = fake_results()
    scores, baseline = results["cases"][name]["scores"], results["cases"]["fp32"]["scores"]["cycle_B"]
    spread = float(np.std(list(baseline.values()), ddof=1))
    seeds = [str(seed) for seed in range(BY_NAME[name].max_seeds or 8)]
    factors = np.linspace(0.2, 1.8, len(seeds))
    scores["cycle_B"] = {seed: baseline[seed] + loss * spread * f for seed, f in zip(seeds, factors, strict=True)}
    (sentence,) = page.failures(results)
    assert sentence.startswith(f"{name}: worse than fp32")


def test_what_was_not_run_is_named_counted_and_not_judged() -> None:
    results = fake_results()
    equal = sum(case.expected == "equal" for case in CASES) - 1  # without plain, which has no baseline
    asked = sum(case.expected == "open" for case in CASES)
    assert page.summary(results) == (
        f"{equal} no worse, 0 undecided, 0 worse, 1 control found, {asked} asked only, 0 not run"
    )
    results["cases"]["fp16"] = {"not_run": "needs a GPU"}
    noise = {str(seed): 0.5 + 0.1 * (seed % 2) for seed in range(8)}
    results["cases"]["bf16"]["scores"]["cycle_A"] = noise
    lines = page.lines_of(results)
    assert "Not run, needs a GPU: fp16.  " in lines and page.failures(results) == []
    assert not any(line.startswith("| fp16") for line in lines)
    assert page.summary(results).startswith(f"{equal - 2} no worse, 1 undecided, 0 worse, 1 control found")
    assert page.summary(results).endswith(", 1 not run")


def test_what_is_undecided_is_named_with_the_losses_that_would_have_been_found() -> None:
    results = fake_results()
    assert page.undecided(results) == []
    noise = {str(seed): 0.5 + 0.1 * (seed % 2) for seed in range(8)}
    results["cases"]["bf16"]["scores"]["cycle_A"] = noise
    results["cases"]["fp32"]["scores"]["grid4_photos"] = noise
    results["cases"]["batch 8, the same --lr"]["scores"]["cycle_A"] = noise  # a question
    scores, grids = (
        max(found.detectable(page.comparisons(results, names)) for found in page.differences(results, case, names))
        for case, names in ((BY_NAME["bf16"], GATED), (BY_NAME["fp32"], GRIDS))
    )
    (line,) = page.undecided(results)
    assert line == (
        "2 undecided: a loss below these, in spreads of the baseline's seeds, may have been missed: "
        f"fp32 checkerboard {grids:.1f}; bf16 {scores:.1f}"
    )
    assert f"{line}.  " in page.lines_of(results)


@pytest.mark.parametrize("what", ["the control", "its baseline"])
def test_a_control_without_a_verdict_fails(what: str) -> None:
    results = fake_results()
    results["cases"]["control: half the images" if what == "the control" else "fp32"] = {"not_run": "no time"}
    assert [sentence.split(":")[:2] for sentence in page.failures(results)] == [["control", " half the images"]]
    assert "control found" not in page.summary(results)


def test_every_runtime_and_precision_of_the_package_is_compared() -> None:
    """As `load_engine` and the backends list them."""
    listed = {(kind.runtime.backend, kind.precision) for kind in ENGINES}
    assert {backend for backend, _ in listed} == {name for named in load._BACKENDS.values() for name in named}
    for runtime in RUNTIMES:
        types = {"torch": torch_backend._TYPES, "aoti": aoti._TYPES}.get(runtime.backend)
        assert set(runtime.precisions) == set(PRECISIONS if types is None else types)
        assert runtime.backend in load._BACKENDS[runtime.suffix]
    assert {runtime.tensorrt for runtime in RUNTIMES if runtime.backend == "tensorrt"} == FLAVOURS.keys()


def test_what_an_engine_needs_is_what_the_package_refuses(tmp_path: Path) -> None:
    """On a CPU: what is said to need more is refused."""
    torch.manual_seed(0)
    config = train_settings(BY_NAME["fp32"], tmp_path, tmp_path, size=32, steps=480, seed=0, lr=1e-3)
    networks = runs.build_networks(config.model)
    save_checkpoint(tmp_path / "checkpoints", 1, networks=networks, config=config, progress={"step": 1})
    tried = 0
    for kind in ENGINES:
        runtime = kind.runtime
        if runtime.backend not in ("torch", "aoti", "onnxruntime") or not kind.why_not():
            continue
        if "not installed" in kind.why_not():
            continue
        path = tmp_path if not runtime.suffix else tmp_path / f"one{runtime.suffix}"
        with pytest.raises(UserError, match=f"{kind.precision}"):
            if runtime.suffix:
                build_engine(tmp_path, path, precision=kind.precision)
            load_engine(path, backend=runtime.backend, precision=kind.precision)  # type: ignore[arg-type]
        tried += 1
    assert tried


def test_the_page_is_what_its_numbers_give() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    text = (docs / "quality.md").read_text("utf-8")
    for stored in (docs / "results").glob("*-quality.json"):
        assert "\n".join(page.page_lines(json.loads(stored.read_text("utf-8")))) in text
    learned = json.loads((docs / "results" / "learning.json").read_text("utf-8"))
    assert "\n".join(learning.table(learned)) in text
    for name, measured in learned.items():
        (task,) = measured["results"]
        assert not (learning.is_judged(name, task) and learning.not_nearer(name, task))


def test_scenes_have_no_checkerboard_and_a_faint_one_is_found(tmp_path: Path) -> None:
    render_dataset(tmp_path, 32, 1, 40, seed=1)
    photos = load_scene_tests(tmp_path).photos
    for period in (2, 4):
        assert grid_energy(photos, period) < 1.6
    dots = torch.zeros(32, 32)
    dots[::2, ::2] = 1.0
    faint = grid_energy(photos + 6 / 127.5 * dots)  # 6 of 255 levels, at every second pixel of every second row
    assert faint > 4
    assert grid_energy(photos + 12 / 127.5 * dots) > faint


def test_a_transposed_convolution_leaves_a_checkerboard_and_resizing_none() -> None:
    """Odena et al. 2016: kernel 3 at stride 2 overlaps unevenly; resizing and a convolution do not."""
    torch.manual_seed(0)
    features = nn.functional.interpolate(torch.rand(16, 8, 8, 8), size=32, mode="bicubic")
    uneven = nn.ConvTranspose2d(8, 3, 3, stride=2, padding=1, output_padding=1)
    even = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 3, 3, padding=1))
    noise = 0.02 * torch.randn(16, 3, 64, 64)
    with torch.no_grad():
        for network in (uneven, even):
            for weights in network.parameters():
                weights.abs_()
        assert grid_energy(uneven(features) + noise) > 100
        assert grid_energy(even(features) + noise) < 2


def test_a_checkerboard_needs_square_images_that_are_large_enough() -> None:
    with pytest.raises(ValueError, match="square, at least 32"):
        grid_energy(torch.rand(1, 3, 32, 30))


def test_batches_see_as_many_images_and_scale_the_rate_as_they_say() -> None:
    def settings(name: str) -> Any:
        options: Any = {"size": 32, "steps": 480, "seed": 1, "lr": 4e-4}
        return train_settings(BY_NAME[name], Path("data"), Path("out"), **options)

    plain, scaled = settings("fp32"), settings("batch 8, --lr-rule sqrt")
    assert plain.data.epoch_size == scaled.data.epoch_size == 48 and scaled.optim.batch_size == 8
    assert scaled.optim.lr_rule == "sqrt" and plain.optim.lr_rule == "none"
    assert settings("4 micro-batches of 1").optim.images_per_step == 4
    assert settings("control: half the images").data.epoch_size == 24


def test_larger_batches_are_asked_about_at_equal_updates_as_well() -> None:
    """4 times the images in batches of 4 are as many updates as fp32 has, and a batch of 1 sees as many images."""

    def updates(name: str) -> float:
        options: Any = {"size": 32, "steps": 480, "seed": 1, "lr": 1e-3}
        config = train_settings(BY_NAME[name], Path("data"), Path("out"), **options)
        return config.data.epoch_size / config.optim.images_per_step

    for rule in ("the same --lr", "--lr-rule sqrt", "--lr-rule linear"):
        assert updates(f"batch 4, {rule}, 4 times the images") == updates("fp32")
        assert 2 * updates(f"batch 8, {rule}, 4 times the images") == updates("fp32")
        assert BY_NAME[f"batch 8, {rule}, 4 times the images"].baseline == "batch 1, 4 times the images"
    assert updates("batch 1, 4 times the images") == 4 * updates("fp32")


def test_what_a_case_is_compared_with_is_run_before_it() -> None:
    for i, case in enumerate(CASES):
        needed = {case.baseline, case.trained_by} - {None}
        assert needed <= {earlier.name for earlier in CASES[:i]}, case.name
    for name, needed in (
        ("4 micro-batches of 1", ["batch 4, the same --lr", "4 micro-batches of 1"]),
        ("--ema 0.999", ["fp32", "--ema 0.999"]),
        ("engine: torch bf16", ["fp32", "engine: torch bf16"]),
    ):
        assert [case.name for case in runs.baselines([BY_NAME[name]])] == needed


def test_the_plain_restatement_starts_as_ours_does_and_its_weights_come_back(tmp_path: Path) -> None:
    """The same weights, images and pools give the same losses, until Adam has amplified how sums were rounded."""
    plan = Plan(tmp_path, 32, 10, 4e-4)
    render_dataset(plan.data, 32, 8, 4, seed=0)
    config = train_settings(BY_NAME["plain"], plan.data, tmp_path / "run", size=32, steps=10, seed=3, lr=4e-4)
    generators, plain = runs.train_plainly(config)
    ours = runs.train(config)
    assert len(plain) == len(ours) == 10
    assert plain[0] == pytest.approx(ours[0], rel=1e-5)
    assert plain[1] == pytest.approx(ours[1], rel=0.02)
    stored, _ = runs.load_generators(tmp_path / "run")
    torch.manual_seed(config.run.seed)
    initial = runs.build_networks(config.model)
    with torch.no_grad():
        outputs = [nets["G_A"](load_scene_tests(plan.data).labels) for nets in (generators, stored, initial)]
    assert (outputs[0] - outputs[1]).abs().mean() < 0.3 * (outputs[1] - outputs[2]).abs().mean()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(quality, "CASES", [BY_NAME["plain"], BY_NAME["fp32"], BY_NAME["engine: torch bf16"]])
    monkeypatch.setattr(runs, "SCENES", 8)
    monkeypatch.setattr(runs, "TEST_IMAGES", 4)
    monkeypatch.setattr(quality, "STEPS_DIVISOR", 10)
    monkeypatch.setattr(reader, "_SCENES", 8)
    monkeypatch.setattr(reader, "_STEPS", 8)
    return ["--out", str(tmp_path / "out"), "--seeds", "2", "--steps", "10"]


def test_the_command_runs_each_case_once_and_writes_results_and_page(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "quality.md").write_text(f"what people wrote\n{BEGIN}\n{END}\n")
    status = quality.main([*small, "--docs", str(docs)])
    text = capsys.readouterr().out
    assert text.count("seed 0: ") == text.count("seed 1: ") == 3
    (stored,) = (docs / "results").glob("*-quality.json")
    measured = json.loads(stored.read_text())
    assert "\n".join(page.page_lines(measured)) in (docs / "quality.md").read_text()
    (results,) = measured["results"]
    assert text.endswith("\n".join([page.summary(results), *page.undecided(results)]) + "\n")
    scores = results["cases"]["engine: torch bf16"]["scores"]
    assert set(GATED) <= scores.keys() and set(scores["cycle_A"]) == {"0", "1"}
    monkeypatch.setattr(runs, "train", None)  # what has been run is not run again
    assert quality.main(small) == status
    assert "seed 0: " not in capsys.readouterr().out


def test_two_programs_share_the_runs(small: list[str], tmp_path: Path) -> None:
    plan = Plan(tmp_path / "out", 32, 10, 4e-4)
    runs.render(plan)
    folder = plan.folder("fp32", 0)
    folder.mkdir(parents=True)
    with (folder / "claimed").open("a") as claim:
        try_lock(claim)
        assert not runs.run_case(plan, BY_NAME["fp32"], 0)  # as another one holds it
        assert not runs.run_case(plan, BY_NAME["--ema 0.999"], 0)  # whose weights are not there yet
    assert runs.run_case(plan, BY_NAME["fp32"], 0) and runs.run_case(plan, BY_NAME["--ema 0.999"], 0)


def test_wrong_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["--seeds", "1"], "at least 2"),
        (["--steps", "100"], "multiple of 160"),
        (["--only", "bf61"], "there is no case bf61"),
    ):
        with pytest.raises(SystemExit):
            quality.main(words)
        assert message in capsys.readouterr().err
