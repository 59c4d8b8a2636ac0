"""A run that is stopped again and again, at random steps, is bit for bit the run that never stopped."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from cyclegan_fast.training import settings as training_settings
from cyclegan_fast.training.process import EXIT_STOPPED, StopSignal
from cyclegan_fast.training.trainer import Trainer
from tests.commands import train_settings
from tests.data.sample_images import noise

STOPS = 10
FLAGS = (
    "--generator resnet_1blocks --ngf 2 --ndf 2 --discriminator n_layers --n-layers 1 --load-size 20 --crop-size 16 "
    "--device cpu --workers 0 --log-every 3 --pool-size 3 --sample-every 0 --epoch-size 7 --n-epochs 2 "
    "--n-epochs-decay 2"
)
# Every loader with every precision, and each of them with micro-batches and without; then what else has a state.
SETTINGS = {
    "cache, float32": "--loader cache",
    "cache, bf16, micro-batches": "--loader cache --amp --grad-accumulation 3",
    "torch, float32, micro-batches": "--loader torch --grad-accumulation 3",
    "torch, bf16, a worker": "--loader torch --amp --workers 1",
    "dali, float32": "--loader dali",
    "dali, bf16, micro-batches": "--loader dali --amp --grad-accumulation 3",
    "fp16, micro-batches": "--loader cache --amp fp16 --grad-accumulation 2 --n-epochs-decay 1",
    "penalty, dropout, plateau": "--loader torch --gan-mode wgangp --dropout --lr-policy plateau --batch-size 2",
    "batch norm": "--loader cache --norm batch --batch-size 2 --amp",
    "several sizes": "--loader torch --preprocess scale_width",
}


class StopAfter(StopSignal):
    """Asks for a stop as a signal does that comes during the step `step` of a trainer."""

    def __init__(self, trainer: Trainer, step: int) -> None:
        self.trainer, self.step = trainer, step
        super().__init__()

    @property
    def requested(self) -> bool:
        return self.trainer.done >= self.step

    @requested.setter
    def requested(self, value: bool) -> None: ...


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 and 4 images of several sizes."""
    root = tmp_path_factory.mktemp("images")
    for domain, count in (("trainA", 5), ("trainB", 4)):
        (root / domain).mkdir()
        for i in range(count):
            noise(20 + 3 * i, 24 + 2 * i, seed=i).save(root / domain / f"{i}.jpg")
    return root


def trainer(images: Path, out: Path, flags: str) -> Trainer:
    return Trainer(train_settings(["--data", str(images), "--out", str(out), *FLAGS.split(), *flags.split()]))


def newest(out: Path) -> Path:
    return max((out / "checkpoints").glob("step_*"))


def losses(out: Path) -> list[tuple[int, dict[str, float]]]:
    records = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    return [(record["step"], record["losses"]) for record in records]


@pytest.mark.fault(17)
@pytest.mark.slow
@pytest.mark.parametrize("flags", [pytest.param(flags, id=name) for name, flags in SETTINGS.items()])
def test_ten_stops_at_random_steps_change_no_bit(
    images: Path, tmp_path: Path, flags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "dali" in flags:
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    if "fp16" in flags:  # which the CPU can, slowly
        monkeypatch.setattr(training_settings, "_check_precision", lambda *_: None)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    whole = trainer(images, straight, flags)
    total = whole.position.total_steps
    assert whole.run() == 0
    steps = sorted(random.sample(range(1, total), STOPS))
    assert any(step % whole.position.steps_per_epoch for step in steps)
    for step in steps:
        part = trainer(images, stopped, f"{flags} --resume auto")
        assert part.run(StopAfter(part, step)) == EXIT_STOPPED
        assert newest(stopped).name == f"step_{step:08d}"
    assert trainer(images, stopped, f"{flags} --resume auto").run() == 0
    assert newest(straight).name == newest(stopped).name == f"step_{total:08d}"
    for name in ("weights.safetensors", "state.safetensors", "state.json"):
        assert (newest(straight) / name).read_bytes() == (newest(stopped) / name).read_bytes(), f"{name}: {steps}"
    assert losses(straight) == losses(stopped)
