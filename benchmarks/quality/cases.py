"""What is compared: ways to train, ways to run what was trained, the scores of both, and what is expected of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness import DEVICE
from cyclegan_fast.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig, with_settings

Expected = Literal["equal", "worse", "open"]
EPOCHS = 10  # half of them at the full learning rate


@dataclass(frozen=True, kw_only=True)
class Score:
    """A number of a pair of generators."""

    title: str
    higher_is_better: bool = False
    gated: bool = False


SCORES = {
    "labels_accuracy": Score(title="labels: accuracy", higher_is_better=True, gated=True),
    "labels_iou": Score(title="labels: IoU", higher_is_better=True, gated=True),
    "photo_accuracy": Score(title="photo: accuracy", higher_is_better=True, gated=True),
    "photo_iou": Score(title="photo: IoU", higher_is_better=True, gated=True),
    "cycle_A": Score(title="cycle L1 of labels", gated=True),
    "cycle_B": Score(title="cycle L1 of photos", gated=True),
    "grid_labels": Score(title="checkerboard in labels"),
    "grid_photos": Score(title="checkerboard in photos"),
    "grid4_labels": Score(title="the same, period 4, in labels"),
    "grid4_photos": Score(title="the same, period 4, in photos"),
}
GATED = [name for name, score in SCORES.items() if score.gated]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A way to train, or to run what another case has trained.

    What is expected of it, beside its baseline: equal (the gate fails where it is worse), worse (a control: the gate
    fails where that is not found), open (a question; the table answers it).
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
    engine: tuple[str, str, str] | None = None
    """Suffix, backend and precision of an engine that runs them."""
    max_seeds: int | None = None
    """Of the seeds, only this many first ones; None takes all."""


def _batch(images: int, rule: str, expected: Expected = "open") -> Case:
    by = {"none": "the same --lr", "sqrt": "--lr-rule sqrt", "linear": "--lr-rule linear"}[rule]
    return Case(name=f"batch {images}, {by}", expected=expected, settings={"batch_size": images, "lr_rule": rule})


def _engine(title: str, *engine: str, max_seeds: int = 3) -> Case:
    suffix, backend, precision = engine
    return Case(
        name=f"engine: {title}",
        trained_by="fp32",
        raw=True,
        engine=(suffix, backend, precision),
        max_seeds=max_seeds,
    )


CASES = [
    Case(name="plain", baseline=None, plain=True),
    Case(name="fp32", baseline="plain", settings={"ema": 0.999}, raw=True),
    Case(name="bf16", settings={"amp": "bf16"}),
    Case(name="fp16", settings={"amp": "fp16"}),
    Case(name="CUDA graph, fp32", settings={"cuda_graphs": "on"}),
    Case(name="CUDA graph, bf16", baseline="bf16", settings={"cuda_graphs": "on", "amp": "bf16"}),
    *(_batch(images, rule) for images in (4, 8) for rule in ("none", "sqrt", "linear")),
    Case(
        name="4 micro-batches of 1",
        baseline="batch 4, the same --lr",
        settings={"grad_accumulation": 4},
    ),
    Case(name="batch 1, half of --lr", expected="open", lr_factor=0.5, max_seeds=4),
    Case(name="batch 1, twice --lr", expected="open", lr_factor=2.0, max_seeds=4),
    Case(name="batch 1, 4 times --lr", expected="open", lr_factor=4.0, max_seeds=4),
    Case(name="--ema 0.999", trained_by="fp32"),
    Case(name="control: half the images", expected="worse", share=0.5),
    _engine("torch bf16", "", "torch", "bf16"),
    _engine("ONNX Runtime fp32", ".onnx", "onnxruntime", "fp32"),
    _engine("ONNX Runtime fp16", ".onnx", "onnxruntime", "fp16"),
    _engine("ONNX Runtime int8", ".onnx", "onnxruntime", "int8"),
    _engine("OpenVINO fp32", ".onnx", "openvino", "fp32"),
    _engine("OpenVINO bf16", ".onnx", "openvino", "bf16"),
    _engine("AOTInductor fp32", ".pt2", "aoti", "fp32", max_seeds=2),
    _engine("AOTInductor bf16", ".pt2", "aoti", "bf16", max_seeds=2),
]
BY_NAME = {case.name: case for case in CASES}


def why_not(case: Case) -> str:
    """Returns why a case cannot run here; nothing where it can."""
    needs_cuda = case.settings.get("amp") == "fp16" or "cuda_graphs" in case.settings
    if needs_cuda and DEVICE.type != "cuda":
        return "needs a GPU"
    if case.engine and case.engine[1] == "openvino":
        try:
            import openvino  # noqa: F401
        except ImportError:
            return "OpenVINO is not installed"
    return ""


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
