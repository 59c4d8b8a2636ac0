"""The folder of studies: its scenes, its runs, and the settings of each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclegan_fast.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig, with_settings
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.documents import DocumentError, Number, check, read_json
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import building_folder, storage_errors, try_lock, write_atomically
from cyclegan_fast.monitoring.run_status import read_status
from cyclegan_fast.studies.variants import Variant

FACTS_NAME = "studies.json"
SCORES_NAME = "scores.json"
TRAIN_IMAGES, TEST_IMAGES = 1000, 100  # per domain
STEPS_PER_EPOCH = 100
WAIT_SECONDS = 0.5  # between two looks at what another process does
SIZES = (32, 256)  # pixels


@dataclass(frozen=True)
class Run:
    """One training: a variant with a seed."""

    variant: Variant
    seed: int
    folder: Path

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.variant.title}, seed {self.seed}"

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
        """How many steps are trained and reported."""
        status = read_status(self.folder)
        return status.step if status else 0


@dataclass(frozen=True)
class StudyFolder:
    """What all runs of a folder share; several studies may use it, and several processes at once."""

    out: Path
    size: int = 32
    steps: int = 2000
    device: str = "auto"

    @property
    def data(self) -> Path:
        """The scenes."""
        return self.out / "scenes"

    def run(self, variant: Variant, seed: int) -> Run:
        """Returns the run of a variant; those of other studies with the same variant are the same."""
        return Run(variant, seed, self.out / "runs" / f"{variant.name}-seed{seed}")

    def runs(self, variants: Iterable[Variant], seeds: Iterable[int]) -> list[Run]:
        """Returns all runs, seed by seed, so that a table has all its lines early."""
        variants = list(variants)
        return [self.run(variant, seed) for seed in dict.fromkeys(seeds) for variant in variants]

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
        if found != self._facts:
            raise UserError(
                f"--out {self.out} holds runs of --size {found['size']} --steps {found['steps']}; give those, or "
                "another --out"
            )

    def prepare(self) -> None:
        """Writes the folder's facts and renders the scenes, unless that is done."""
        if self.data.is_dir() and (self.out / FACTS_NAME).is_file():
            return
        with storage_errors(f"cannot use --out {self.out}"):
            self.out.mkdir(parents=True, exist_ok=True)
        write_atomically(self.out / FACTS_NAME, (json.dumps(self._facts) + "\n").encode())
        with self._waiting_for(self.out / ".lock"), storage_errors(f"cannot write the scenes {self.data}"):
            if not self.data.exists():
                with building_folder(self.data) as partial:
                    render_dataset(partial, self.size, TRAIN_IMAGES, TEST_IMAGES, seed=0)

    def config(self, run: Run) -> TrainConfig:
        """Returns the settings of a run: a small CycleGAN whose rate decays over the second half of the steps."""
        epochs = max(2, -(-self.steps // STEPS_PER_EPOCH))
        shared = TrainConfig(
            model=ModelConfig(generator="resnet_3blocks", ngf=16, ndf=32, discriminator="n_layers", n_layers=2),
            optim=OptimConfig(lr=4e-4, n_epochs=epochs - epochs // 2, n_epochs_decay=epochs // 2),
            data=DataConfig(
                data=self.data, load_size=self.size, crop_size=self.size, epoch_size=STEPS_PER_EPOCH, loader="cache"
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
        given: dict[str, Any] = {"lambda_identity": 0.0, **run.variant.settings}
        return with_settings(shared, given)

    @contextmanager
    def claim(self, run: Run) -> Iterator[bool]:
        """Yields whether this process has the run to itself; until the block ends, or the process, however it ends."""
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        with run.folder.with_suffix(".lock").open("a") as file:
            try:
                try_lock(file)
            except OSError:
                yield False
                return
            yield True

    @contextmanager
    def _waiting_for(self, path: Path) -> Iterator[None]:
        with path.open("a") as file:
            while True:
                try:
                    try_lock(file)
                    break
                except OSError:
                    time.sleep(WAIT_SECONDS)
            yield

    @property
    def _facts(self) -> dict[str, int]:
        return {"size": self.size, "steps": self.steps, "train_images": TRAIN_IMAGES, "test_images": TEST_IMAGES}
