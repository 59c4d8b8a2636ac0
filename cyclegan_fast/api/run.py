"""A training run as Python sees it: the folder that it writes, whether it has ended or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cyclegan_fast.config import TrainConfig, from_dict
from cyclegan_fast.errors import MissingFileError
from cyclegan_fast.metrics import DEFAULT_SCORE, best_record, score_records
from cyclegan_fast.models import model_of
from cyclegan_fast.monitoring.events import EVENTS_NAME, is_log_record, read_events
from cyclegan_fast.monitoring.run_status import RunStatus, read_status

if TYPE_CHECKING:
    from cyclegan_fast.engine import Backend, Engine, Precision
    from cyclegan_fast.metrics import Direction

Curve = np.ndarray[tuple[int], np.dtype[np.float64]]


class Run:
    """A run that is finished, stopped or still training, as its folder showed it when it was opened.

    Args:
        out: The run's folder, the ``--out`` of the command.

    Raises:
        UserError: The folder holds no run.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.out = Path(out).expanduser()
        """The run's folder."""
        if not (self.out / EVENTS_NAME).is_file():
            raise MissingFileError(f"{self.out} holds no training run: give the folder that one writes to, its out")
        self.records: list[dict[str, Any]] = []
        """The log records, oldest first: step, time in seconds since 1970, losses by name, epoch, lr, speed ..."""
        self.scores: list[dict[str, Any]] = []
        """The records of its test images' scores, oldest first: step, scores by name, spreads, protocol ..."""
        self.warnings: list[str] = []
        """What the run has warned of, oldest first: see `--watch`."""
        self.status: RunStatus | None = None
        """Whether it trains or how it ended, and how far it is; None before it has trained."""
        self.refresh()

    def refresh(self) -> Self:
        """Reads the log and the status again, of a run that still trains; returns this run."""
        events, self.status = read_events(self.out), read_status(self.out)
        self.records = [event for event in events if is_log_record(event)]
        self.scores = [event for event in events if "scores" in event]
        self.warnings = [warning["message"] for event in events for warning in event.get("warnings") or ()]
        return self

    def best_step(self, score: str = DEFAULT_SCORE) -> int | None:
        """Returns the step with the best score of its test images; None where nothing was scored.

        Args:
            score: Its name: swd, color, cycle_l1, cycle_ssim ..., or that of one direction, swd_AtoB.

        Raises:
            UserError: There is no such score.
        """
        best = best_record(score_records(self.scores), score)
        return None if best is None else best["step"]

    @property
    def config(self) -> TrainConfig:
        """All settings, as they were resolved."""
        from cyclegan_fast.monitoring.run_report import SETTINGS_NAME, read_settings

        return from_dict(TrainConfig, read_settings(self.out), where=str(self.out / SETTINGS_NAME))

    @property
    def steps(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The step of each log record, which is the x of every curve; int64 [records]."""
        return np.array([record["step"] for record in self.records], np.int64)

    @property
    def losses(self) -> dict[str, Curve]:
        """Each loss by its name, such as G_A or cycle_B: the mean since the record before; float64 [records].

        Before the first record they are empty arrays, of the losses that the settings train.
        """
        if not self.records:
            return {name: np.empty(0) for name in _trained_losses(self.config)}
        return _curves([record.get("losses", {}) for record in self.records])

    @property
    def curves(self) -> dict[str, Curve]:
        """Everything else that was logged, by name: lr, steps_per_second, data_wait_percent ...; float64 [records]."""
        return _curves([{k: v for k, v in r.items() if k not in ("step", "losses")} for r in self.records])

    @property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint; None before the first."""
        from cyclegan_fast.checkpoint import latest_checkpoint

        return latest_checkpoint(self.out)

    def best_checkpoint(self, score: str | None = None) -> Path | None:
        """Returns the checkpoint with the best score of the test images; None where none is scored.

        Args:
            score: Its name: swd, color, cycle_l1, cycle_ssim ..., or swd_AtoB; by default the run's own.

        Raises:
            UserError: There is no such score.
        """
        from cyclegan_fast.checkpoint import best_checkpoint

        return best_checkpoint(self.out, score)

    @property
    def step(self) -> int:
        """Steps that are trained."""
        return max(self.records[-1]["step"] if self.records else 0, self.status.step if self.status else 0)

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run; None before it has trained."""
        return self.status.total_steps if self.status else None

    @property
    def finished(self) -> bool:
        """Whether all its steps are trained and stored in a checkpoint."""
        return self.status is not None and self.status.state == "finished"

    @property
    def samples(self) -> list[Path]:
        """The grids of sample images, oldest first."""
        from cyclegan_fast.monitoring.samples import sample_files

        return sample_files(self.out)

    @property
    def report(self) -> Path | None:
        """The report, an HTML file; None before there is one."""
        from cyclegan_fast.monitoring.run_report import REPORT_NAME

        path = self.out / REPORT_NAME
        return path if path.is_file() else None

    def engine(
        self,
        direction: Direction | None = None,
        *,
        device: str = "auto",
        precision: Precision | None = None,
        backend: Backend = "auto",
        threads: int | None = None,
    ) -> Engine:
        """Loads the generator of the newest checkpoint, by default AtoB if there are both; see `load_engine`.

        Raises:
            UserError: There is no checkpoint yet, or the device or the precision cannot be had.
        """
        from cyclegan_fast.engine import load_engine

        return load_engine(
            self.out, direction=direction, device=device, precision=precision, backend=backend, threads=threads
        )

    def __repr__(self) -> str:
        return f"Run({str(self.out)!r}): {self.describe()}"

    def describe(self) -> str:
        """Returns where the run is, such as ``step 1,200 of 3,000, stopped``."""
        if self.status is None:
            return f"step {self.step:,}"
        return f"step {self.step:,} of {self.total_steps:,}, {self.status.state}"

    def _repr_html_(self) -> str:
        """What a notebook shows, as the run is at that moment: where it is, the newest grid, the curves."""
        from cyclegan_fast.api.run_view import run_view

        now = Run(self.out)
        return run_view(str(self.out), now.describe(), now.records, next(reversed(now.samples), None))


def _trained_losses(config: TrainConfig) -> list[str]:
    """The names of the losses, in the order of the records."""
    o = config.objective
    cycles = {"cycle_A": o.lambda_A, "cycle_B": o.lambda_B}
    weights = cycles | {"G": o.lambda_gan, "D": o.lambda_gan, "idt": o.lambda_identity * max(cycles.values())}
    weights |= {"L1": o.lambda_L1, "self": o.lambda_self, "latent": 1.0}
    return [name for name in model_of(config).losses if weights.get(name) or weights.get(name[:-2])]


def _curves(records: list[dict[str, Any]]) -> dict[str, Curve]:
    """One array per name in any of the records; NaN where a record lacks it or has no finite number."""
    names = dict.fromkeys(name for record in records for name, value in record.items() if _is_number(value))
    return {name: np.array([record.get(name) for record in records], np.float64) for name in names}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
