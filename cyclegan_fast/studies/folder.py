"""The folder of studies: its scenes, its runs, and the settings of each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cyclegan_fast.checkpoint import latest_checkpoint, read_settings
from cyclegan_fast.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.documents import DocumentError, Number, check, read_json
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import storage_errors, try_lock, write_atomically
from cyclegan_fast.metrics import Direction
from cyclegan_fast.models import with_given
from cyclegan_fast.studies.variants import TASKS, Task, Variant

FACTS_NAME = "studies.json"
SCORES_NAME = "scores.json"
TRAIN_IMAGES, TEST_IMAGES = 1000, 100  # per domain
STEPS_PER_EPOCH = 100
NETWORKS = ModelConfig(generator="resnet_3blocks", ngf=16, ndf=32, discriminator="n_layers", n_layers=2)
WAIT_SECONDS = 0.5  # between two looks at what another process does
SIZES = (32, 256)  # pixels


@dataclass(frozen=True)
class Run:
    """One training: a variant with a seed, or one direction of it."""

    variant: Variant
    seed: int
    direction: Direction
    out: Path
    """That of the studies."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        part = f"-{self.direction}" if self.variant.one_direction else ""
        return f"{self.variant.name}{part}-seed{self.seed}"

    @property
    def label(self) -> str:
        """How messages name it."""
        part = f", {' and '.join(TASKS[task] for task in self.tasks)}" if self.variant.one_direction else ""
        return f"{self.variant.title}{part}, seed {self.seed}"

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it learns."""
        return self.variant.parts[self.direction]

    @property
    def folder(self) -> Path:
        """Where it is trained."""
        return self.out / "runs" / self.name

    @property
    def scores(self) -> Path:
        """The file that is written last: the run is done where it exists."""
        return self.folder / SCORES_NAME

    @property
    def is_done(self) -> bool:
        """Whether it is trained and scored."""
        return self.scores.is_file()

    @property
    def step(self) -> int:
        """The step of its newest checkpoint, from which it continues; 0 before the first one."""
        checkpoint = latest_checkpoint(self.folder)
        return int(read_settings(checkpoint).progress["step"]) if checkpoint else 0


@dataclass(frozen=True)
class StudyFolder:
    """What all runs of a folder share; several studies may use it, and several processes at once."""

    out: Path
    size: int = 32
    steps: int = 1000
    device: str = "auto"

    @property
    def data(self) -> Path:
        """The scenes; its test scenes are those of all runs."""
        return self.out / "scenes"

    def data_of(self, variant: Variant) -> Path:
        """Returns the scenes that a variant trains on."""
        return self.out / "paired_scenes" if variant.model.needs_pairs else self.data

    def runs(self, variants: Sequence[Variant], seeds: Sequence[int]) -> list[Run]:
        """Returns all runs, seed by seed, so that a table has all its lines early; studies share those of a variant."""
        return [
            Run(variant, seed, direction, self.out)
            for seed in dict.fromkeys(seeds)
            for variant in variants
            for direction in variant.parts
        ]

    def check(self) -> None:
        """Checks the numbers, and that the folder is empty or holds studies of the same ones.

        Raises:
            UserError: They are out of range, or it holds something else.
        """
        low, high = SIZES
        if not low <= self.size <= high or self.size % 4:
            raise UserError(f"--size must be a multiple of 4 from {low} to {high} pixels, got {self.size}")
        if self.steps < 1:
            raise UserError(f"--steps must be at least 1, got {self.steps}")
        path = self.out / FACTS_NAME
        if not path.is_file():
            with storage_errors(f"cannot use --out {self.out}"):
                if self.out.exists() and any(self.out.iterdir()):
                    raise UserError(f"--out {self.out} holds files that are not of a study; name another folder")
            return
        try:
            found = read_json(path)
            check(found, dict.fromkeys(self._facts, Number(1)))
        except (OSError, DocumentError) as error:
            raise UserError(f"{path} is damaged ({error}); name another --out") from error
        if (found["size"], found["steps"]) != (self.size, self.steps):
            raise UserError(
                f"--out {self.out} holds runs of --size {found['size']} --steps {found['steps']}; give those, or "
                "another --out"
            )
        if found != self._facts:
            raise UserError(f"--out {self.out} holds runs on other scenes, of another version; name another --out")

    def prepare(self, variants: Sequence[Variant]) -> None:
        """Writes the folder's facts and renders the scenes of some variants, unless that is done.

        Raises:
            UserError: The folder cannot be written.
        """
        with storage_errors(f"cannot use --out {self.out}"):
            (self.out / "locks").mkdir(parents=True, exist_ok=True)
        if not (self.out / FACTS_NAME).is_file():
            write_atomically(self.out / FACTS_NAME, (json.dumps(self._facts) + "\n").encode())
        paired = {self.data: False} | {self.data_of(variant): variant.model.needs_pairs for variant in variants}
        for target, is_paired in paired.items():
            with self._waiting_for(target.name), storage_errors(f"cannot write the scenes {target}"):
                if not target.exists():
                    render_dataset(target, self.size, TRAIN_IMAGES, TEST_IMAGES, seed=0, paired=is_paired)

    def config(self, run: Run) -> TrainConfig:
        """Returns the settings of a run: a small CycleGAN whose rate decays over the second half of the steps."""
        epochs = max(2, -(-self.steps // STEPS_PER_EPOCH))
        shared = TrainConfig(
            model=NETWORKS,
            optim=OptimConfig(lr=4e-4, n_epochs=epochs - epochs // 2, n_epochs_decay=epochs // 2),
            data=DataConfig(
                data=self.data_of(run.variant),
                paired=run.variant.model.needs_pairs,
                direction=run.direction,
                load_size=self.size,
                crop_size=self.size,
                epoch_size=STEPS_PER_EPOCH,
                loader="cache",
            ),
            run=RunConfig(
                out=run.folder,
                seed=run.seed,
                device=self.device,
                max_steps=self.steps,
                sample_every=max(1, self.steps // 4),
                eval_every=0,
                checkpoint_every=max(1, self.steps // 8),
                keep_checkpoints=1,
                resume="auto",
            ),
        )
        given: dict[str, Any] = {"lambda_identity": 0.0, "generator": NETWORKS.generator, **run.variant.settings}
        return with_given(shared, given)

    @contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Yields whether this process has the run to itself: until the block ends, or the process, however it does."""
        with self._lock_file(run.name) as file:
            yield _is_locked_by_us(file)

    @contextmanager
    def _waiting_for(self, name: str) -> Iterator[None]:
        with self._lock_file(name) as file:
            while not _is_locked_by_us(file):
                time.sleep(WAIT_SECONDS)
            yield

    def _lock_file(self, name: str) -> IO[str]:
        return (self.out / "locks" / name).open("a")

    @property
    def _facts(self) -> dict[str, int]:
        return {"size": self.size, "steps": self.steps, "train_images": TRAIN_IMAGES, "test_images": TEST_IMAGES}


def _is_locked_by_us(file: IO[str]) -> bool:
    try:
        try_lock(file)
    except OSError:
        return False
    return True
