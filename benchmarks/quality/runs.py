"""One case with one seed: trained or loaded, translated, scored, and stored, so that it is not done again."""

from __future__ import annotations

import functools
import json
import shutil
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness import DEVICE
from benchmarks.quality.cases import BY_NAME, Case, train_settings
from benchmarks.quality.checkerboard import grid_energy
from benchmarks.quality.engines import EngineKind
from cyclegan_fast.checkpoint import latest_checkpoint, load_generators
from cyclegan_fast.checkpoint.reference_format import from_reference, to_reference
from cyclegan_fast.config import TrainConfig
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.engine import build_engine, load_engine
from cyclegan_fast.evaluation import load_scene_tests, train_reader
from cyclegan_fast.evaluation.reader import Reader
from cyclegan_fast.evaluation.scenes import SceneTests, Translate, score_translations, translate_all
from cyclegan_fast.files import try_lock, write_atomically
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.schedule import LearningRate
from cyclegan_fast.training.trainer import Trainer
from tests.plain.networks import PlainNLayerDiscriminator, PlainResnetGenerator
from tests.plain.step import PlainCycleGAN

NAMES = ("G_A", "G_B", "D_A", "D_B")
SCENES, TEST_IMAGES = 1000, 100  # of each domain


class Plan(NamedTuple):
    """What all runs have in common."""

    out: Path
    size: int
    steps: int
    lr: float

    @property
    def data(self) -> Path:
        """The folder of the scenes."""
        return self.out / f"scenes_{self.size}"

    def folder(self, case: str, seed: int) -> Path:
        """The folder of a case with a seed."""
        name = "".join(c if c.isalnum() or c in ".-" else "_" for c in case)
        return self.out / f"{self.size}px_{self.steps}steps_lr{self.lr:g}" / name / f"seed{seed}"

    def result(self, case: str, seed: int) -> dict[str, float] | None:
        """The scores of a case with a seed; None as long as there are none."""
        path = self.folder(case, seed) / "scores.json"
        return json.loads(path.read_text()) if path.exists() else None


def run_case(plan: Plan, case: Case, seed: int) -> bool:
    """Trains and scores a case; returns False where another process does, or what it takes is not there yet."""
    folder = plan.folder(case.name, seed)
    if plan.result(case.name, seed) is not None:
        return True
    if case.trained_by and plan.result(case.trained_by, seed) is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "claimed").open("a") as claim:
        try:
            try_lock(claim)
        except OSError:
            return False
        if plan.result(case.name, seed) is None:  # it may have ended meanwhile
            scores = _scores(plan, case, seed, folder)
            write_atomically(folder / "scores.json", (json.dumps(scores, indent=1) + "\n").encode())
    return True


def render(plan: Plan) -> bool:
    """Renders the scenes; returns False where another process does."""
    plan.out.mkdir(parents=True, exist_ok=True)
    with (plan.out / "claimed").open("a") as claim:
        try:
            try_lock(claim)
        except OSError:
            return False
        if not plan.data.exists():
            render_dataset(plan.data, plan.size, SCENES, TEST_IMAGES, seed=0)
    return True


@functools.cache
def _tests(plan: Plan) -> tuple[SceneTests, Reader]:
    tests = load_scene_tests(plan.data)
    return tests, train_reader(plan.size, tests.seed)


def _scores(plan: Plan, case: Case, seed: int, folder: Path) -> dict[str, float]:
    if case.trained_by:
        run = plan.folder(case.trained_by, seed) / "run"
        losses: dict[str, float] = {}
    else:
        run = folder / "run"
        config = train_settings(case, plan.data, run, size=plan.size, steps=plan.steps, seed=seed, lr=plan.lr)
        if case.plain:
            shutil.rmtree(run, ignore_errors=True)  # it cannot be resumed
            generators, curve = train_plainly(config)
            return last_fifth(curve) | translation_scores(plan, generators["G_A"], generators["G_B"])
        losses = last_fifth(train(config))
    if case.engine:
        return engine_scores(plan, case.engine, run, folder)
    generators, _ = load_generators(run, raw=case.raw)
    return losses | translation_scores(plan, generators["G_A"], generators["G_B"])


def train(config: TrainConfig) -> list[dict[str, float]]:
    """Trains a run, or continues it; returns the losses of each log record, by name."""
    if status := Trainer(config).run():
        raise SystemExit(status)
    return [event["losses"] for event in read_events(config.run.out) if "losses" in event]


def train_plainly(config: TrainConfig) -> tuple[dict[str, nn.Module], list[dict[str, float]]]:
    """Trains by the plain restatement of the step: the same initial weights, images and pools' decisions.

    Returns:
        Our generators with the trained weights, and the losses of each step, by name.
    """
    model, seed = config.model, config.run.seed
    loader = build_train_loader(config, DEVICE)
    torch.manual_seed(seed)
    networks = build_networks(model)
    plain = {
        name: PlainResnetGenerator(3, 3, ngf=model.ngf, n_blocks=int(model.generator[len("resnet_") : -len("blocks")]))
        if name.startswith("G")
        else PlainNLayerDiscriminator(3, ndf=model.ndf, n_layers=model.n_layers)
        for name in NAMES
    }
    for name, network in plain.items():
        network.load_state_dict(to_reference(networks[name]))
        network.to(DEVICE)
    trainer = PlainCycleGAN(*(plain[name] for name in NAMES), pool_seeds=(2 * seed, 2 * seed + 1), lr=config.optim.lr)
    rates, losses = LearningRate(config.optim), []
    loader.prepare(lambda: False)
    for epoch in range(1, config.optim.n_epochs + config.optim.n_epochs_decay + 1):
        for optimizer in (trainer.optimizer_G, trainer.optimizer_D):
            optimizer.param_groups[0]["lr"] = rates.at(epoch)
        for _ in range(loader.epoch_size):
            batch = next(loader)
            found = trainer.step(batch["A"].contiguous(), batch["B"].contiguous())
            losses.append({name: float(loss) for name, loss in found.items()})
    loader.close()
    for name in ("G_A", "G_B"):
        networks[name].load_state_dict(from_reference(networks[name], plain[name].state_dict()), strict=False)
    return {name: networks[name].eval() for name in ("G_A", "G_B")}, losses


def last_fifth(losses: list[dict[str, float]]) -> dict[str, float]:
    """Averages each loss over the last fifth of a run; ``loss_<name>``."""
    last = losses[-max(1, len(losses) // 5) :]
    return {f"loss_{name}": statistics.fmean(of_step[name] for of_step in last) for name in last[0]}


def engine_scores(plan: Plan, kind: EngineKind, run: Path, folder: Path) -> dict[str, float]:
    """Exports both generators of a run as they are trained, and scores the engines."""
    runtime, checkpoint, engines = kind.runtime, latest_checkpoint(run), {}
    for direction, images in (("AtoB", "testA"), ("BtoA", "testB")):
        path = folder / f"{direction}{runtime.suffix or '.safetensors'}"
        of_file: Any = {"precision": kind.precision, "images": plan.data / images, "tensorrt": runtime.tensorrt}
        on_load: Any = {"backend": runtime.backend, "device": runtime.device}
        if not runtime.suffix:  # weights, which are cast as they are loaded
            of_file, on_load = {}, on_load | {"precision": kind.precision}
        build_engine(checkpoint, path, direction=direction, raw_weights=True, **of_file)
        engines[direction] = load_engine(path, **on_load)
    scores = translation_scores(plan, engines["AtoB"].run, engines["BtoA"].run)
    for loaded in engines.values():
        loaded.close()
    return scores


def translation_scores(plan: Plan, to_photo: Translate, to_labels: Translate) -> dict[str, float]:
    """Scores a pair of translators of images on the CPU on the test scenes: see `cases.SCORES`, and docs/quality.md."""
    tests, reader = _tests(plan)
    photos, labels = translate_all(to_photo, tests.labels), translate_all(to_labels, tests.photos)
    found = score_translations(labels, photos, tests, reader)
    read = {"labels": found["photo_to_labels"], "photo": found["labels_to_photo"]}
    short = {"pixel_accuracy": "accuracy", "class_accuracy": "class_accuracy", "class_iou": "iou", "l1": "l1"}
    return {
        **{f"{what}_{name}": scores[key] for what, scores in read.items() for key, name in short.items()},
        "cycle_A": _l1(translate_all(to_labels, photos), tests.labels),
        "cycle_B": _l1(translate_all(to_photo, labels), tests.photos),
        **_grid_scores(labels, photos),
    }


def real_grid_energy(plan: Plan) -> dict[str, float]:
    """The checkerboard in the real test images."""
    tests = load_scene_tests(plan.data)
    return _grid_scores(tests.labels, tests.photos)


def _grid_scores(labels: Tensor, photos: Tensor) -> dict[str, float]:
    return {
        f"grid{'' if period == 2 else period}_{what}": grid_energy(images, period)
        for what, images in (("labels", labels), ("photos", photos))
        for period in (2, 4)
    }


def _l1(images: Tensor, target: Tensor) -> float:
    """Mean absolute difference in [0, 1] units."""
    return float((images - target).abs().mean() / 2)


def baselines(cases: list[Case]) -> list[Case]:
    """Adds what the cases are compared with, and what trains any of them, in the order of `CASES`."""
    names = {name for case in cases for name in (case.name, case.baseline) if name}
    names |= {trained_by for name in names if (trained_by := BY_NAME[name].trained_by)}
    return [case for name, case in BY_NAME.items() if name in names]
