"""What is compared: ways to train, ways to run what was trained, the scores of both, and what is expected of each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness import DEVICE
from benchmarks.quality.engines import ENGINES, EngineKind
from cyclegan_fast.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig, with_settings

Expected = Literal["equal", "worse", "open"]
EPOCHS = 10  # half of them at the full learning rate


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number of a pair of generators."""

    title: str
    higher_is_better: bool = False
    ratio: bool = False
    """Of two powers: compared by its logarithm."""


SCORES = {
    "labels_accuracy": Score(title="labels: accuracy", higher_is_better=True),
    "labels_iou": Score(title="labels: IoU", higher_is_better=True),
    "photo_accuracy": Score(title="photo: accuracy", higher_is_better=True),
    "photo_iou": Score(title="photo: IoU", higher_is_better=True),
    "cycle_A": Score(title="cycle L1 of labels"),
    "cycle_B": Score(title="cycle L1 of photos"),
    "grid_labels": Score(title="checkerboard in labels", ratio=True),
    "grid_photos": Score(title="checkerboard in photos", ratio=True),
    "grid4_labels": Score(title="the same, period 4, in labels", ratio=True),
    "grid4_photos": Score(title="the same, period 4, in photos", ratio=True),
}
GRIDS = [name for name, score in SCORES.items() if score.ratio]
GATED = [name for name in SCORES if name not in GRIDS]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A way to train, or to run what another case has trained.

    What is expected of it, beside its baseline: equal (the gate fails where it is worse), worse (a control: the gate
    fails where that is not found), open (a question, which the table answers).
    """

    name: str
    baseline: str | None = "fp32"
    expected: Expected = "equal"
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the training, by name, other than those of `train_settings`."""
    lr_factor: float = 1.0
    """Of --lr."""
    plain: bool = False
    """Trained by the plain restatement of the step."""
    share: float = 1.0
    """Of the images that the others are trained on."""
    trained_by: str | None = None
    """The case whose generators it takes; None trains its own."""
    raw: bool = False
    """It takes the weights as they are trained, rather than their average."""
    engine: EngineKind | None = None
    """What runs them."""
    max_seeds: int | None = None
    """Of the seeds, only this many first ones; None takes all."""


def _batch(images: int, rule: str, share: float = 1.0) -> Case:
    by = {"none": "the same --lr", "sqrt": "--lr-rule sqrt", "linear": "--lr-rule linear"}[rule]
    case = Case(name=f"batch {images}, {by}", expected="open", settings={"batch_size": images, "lr_rule": rule})
    if share == 1.0:
        return case
    more = f", {share:g} times the images"
    return replace(case, name=case.name + more, baseline=f"batch 1{more}", share=share, max_seeds=2)


def _engine(kind: EngineKind) -> Case:
    name = f"engine: {kind.runtime.title} {kind.precision}"
    return Case(name=name, trained_by="fp32", raw=True, engine=kind, max_seeds=3)


_RULES = [(images, rule) for images in (4, 8) for rule in ("none", "sqrt", "linear")]
CASES = [
    Case(name="plain", baseline=None, plain=True),
    Case(name="fp32", baseline="plain", settings={"ema": 0.999}, raw=True),
    Case(name="bf16", settings={"amp": "bf16"}),
    Case(name="fp16", settings={"amp": "fp16"}),
    Case(name="CUDA graph, fp32", settings={"cuda_graphs": "on"}),
    Case(name="CUDA graph, bf16", baseline="bf16", settings={"cuda_graphs": "on", "amp": "bf16"}),
    *(_batch(images, rule) for images, rule in _RULES),
    Case(
        name="4 micro-batches of 1",
        baseline="batch 4, the same --lr",
        settings={"grad_accumulation": 4},
    ),
    Case(name="batch 1, half of --lr", expected="open", lr_factor=0.5, max_seeds=4),
    Case(name="batch 1, twice --lr", expected="open", lr_factor=2.0, max_seeds=4),
    Case(name="batch 1, 4 times --lr", expected="open", lr_factor=4.0, max_seeds=4),
    Case(name="batch 1, 4 times the images", expected="open", share=4.0, max_seeds=2),
    *(_batch(images, rule, share=4.0) for images, rule in _RULES),
    Case(name="--ema 0.999", trained_by="fp32"),
    Case(name="control: half the images", expected="worse", share=0.5),
    *map(_engine, ENGINES),
]
BY_NAME = {case.name: case for case in CASES}


def why_not(case: Case) -> str:
    """Returns why a case cannot run here; nothing where it can."""
    if case.engine:
        return case.engine.why_not()
    if DEVICE.type == "cuda":
        return ""
    if "cuda_graphs" in case.settings:
        return "needs a GPU ([what the tests show without one](#cuda-graphs))"
    return "needs a GPU" if case.settings.get("amp") == "fp16" else ""


def train_settings(case: Case, data: Path, out: Path, *, size: int, steps: int, seed: int, lr: float) -> TrainConfig:
    """Returns the settings of a run: a small CycleGAN whose rate decays over the second half.

    Args:
        case: What it tries.
        data: A scenes data set.
        out: Folder of the run.
        size: Side of the images in pixels.
        steps: Steps of a batch of one: how many images of each domain the run sees.
        seed: Of the run.
        lr: Adam's rate for batches of one.
    """
    config = TrainConfig(
        model=ModelConfig(generator="resnet_2blocks", ngf=8, ndf=16, discriminator="n_layers", n_layers=2),
        optim=OptimConfig(lr=lr * case.lr_factor, n_epochs=EPOCHS // 2, n_epochs_decay=EPOCHS // 2),
        data=DataConfig(
            data=data, load_size=size, crop_size=size, epoch_size=round(steps * case.share) // EPOCHS, loader="cache"
        ),
        run=RunConfig(
            out=out,
            device=DEVICE.type,
            seed=seed,
            log_every=max(1, steps // 200),
            sample_every=0,
            eval_every=0,
            checkpoint_every=max(1, steps // 4),
            keep_checkpoints=1,
            resume="auto",
        ),
    )
    return with_settings(config, case.settings)
