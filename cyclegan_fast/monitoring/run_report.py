"""The report of a run from the files in its folder, and its upkeep while the run trains."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from PIL import Image

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.documents import MAX_YAML_BYTES, DocumentError, check, parse_yaml, read_limited
from cyclegan_fast.errors import UserError
from cyclegan_fast.models import MODELS
from cyclegan_fast.monitoring.appended import Unessential
from cyclegan_fast.monitoring.events import EVENTS_NAME, read_events
from cyclegan_fast.monitoring.grids import reduced, shown_channels
from cyclegan_fast.monitoring.machine import machine_info
from cyclegan_fast.monitoring.page import ImageBlock
from cyclegan_fast.monitoring.report import write_report
from cyclegan_fast.monitoring.run_status import RunStatus, State, read_status, write_status
from cyclegan_fast.monitoring.samples import (
    COLUMNS,
    COLUMNS_OF_PAIRS,
    DIRECTIONS,
    SampleRow,
    read_samples,
    sample_steps,
)
from cyclegan_fast.monitoring.scores import SCORED, SHAPE, read_scores
from cyclegan_fast.monitoring.training_progress import TrainingProgress

log = logging.getLogger(__name__)

REPORT_NAME, SETTINGS_NAME = "report.html", "config.yaml"
MAX_STEPS_SHOWN = 8  # in the strip of each direction
LAST_SIDE, STRIP_SIDE = 256, 128  # pixels that images of the report have at most
MAX_SHARE = 0.02  # of a run's time that its report may take
AVERAGED = "Images and scores are those of the averaged generators, --ema {}."
USAGE = """import cyclegan_fast

engine = cyclegan_fast.load_engine("{out}", direction="{direction}")
image = cyclegan_fast.infer(engine, "a.jpg")"""


class RunReport:
    """Keeps report.html and status.json of a run up to date. Use it as a context manager around the training.

    What ends the block is in the last report: the end of the training, a stop, or an error.

    Args:
        folder: The run's.
        progress: How far it is.
        channels_note: From `channels_note`.
    """

    def __init__(self, folder: Path, progress: TrainingProgress, channels_note: str = "") -> None:
        self.folder, self.progress, self.channels_note = folder, progress, channels_note
        self.machine = machine_info()
        self.upkeep = Unessential("the report is not up to date")
        self.began = time.monotonic()
        self.spent = self.last = 0.0  # seconds, of all reports and of the last one

    def __enter__(self) -> RunReport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended: State = "finished" if self.progress.step >= self.progress.total else "stopped"
        with Unessential("the report does not show how the run ended"):
            self._write("failed" if error else ended, _reason(error) if error else "")

    def update(self) -> None:
        """Writes both files, unless all reports together would then take more than `MAX_SHARE` of the time."""
        if self.spent + self.last > MAX_SHARE * (time.monotonic() - self.began):
            return
        with self.upkeep:
            self._write("running")

    def _write(self, state: State, message: str = "") -> None:
        start = time.monotonic()
        status = RunStatus(
            state=state,
            step=self.progress.step,
            total_steps=self.progress.total,
            seconds_left=self.progress.seconds_left() if state == "running" else None,
            message=message,
            machine=self.machine,
            channels_note=self.channels_note,
        )
        write_status(self.folder, status)
        write_run_report(self.folder, status)
        self.last = time.monotonic() - start
        self.spent += self.last


def write_run_report(folder: Path, status: RunStatus | None = None, *, path: Path | None = None) -> Path:
    """Writes the report of a run from the files in its folder.

    Args:
        folder: The run's.
        status: How far it is; by default what its files hold.
        path: The .html file; by default report.html in the folder.

    Returns:
        The report's path.

    Raises:
        UserError: The folder is no run's, a file in it is damaged, or the report cannot be written.
    """
    settings, events = read_settings(folder), read_events(folder)
    model = MODELS.get(str(settings.get("model", {}).get("model")), MODELS["cyclegan"])
    usage = USAGE.format(out=folder, direction=settings.get("data", {}).get("direction", "AtoB"))
    status = status or current_status(folder, events)
    note = status.channels_note if status is not None else ""
    return write_report(
        path or folder / REPORT_NAME,
        title=f"{model.title} {folder.resolve().name}",
        settings=settings,
        machine={} if status is None else status.machine,
        events=events,
        images=last_samples(folder, note, COLUMNS if model.reconstructs else COLUMNS_OF_PAIRS),
        history=sample_history(folder, note),
        status=status,
        scores=_read_scores(folder),
        summary=AVERAGED.format(ema) if (ema := settings.get("optim", {}).get("ema")) else None,
        usage=usage if _has_checkpoint(folder) else None,
    )


def current_status(folder: Path, events: Sequence[Mapping[str, Any]]) -> RunStatus | None:
    """Returns how far a run is by its files; None of one that an earlier version trained.

    Raises:
        UserError: The status is damaged.
    """
    status = read_status(folder)
    if status is not None and status.state in ("running", "killed"):  # its records may be newer
        status = dataclasses.replace(status, step=max([status.step, *(event["step"] for event in events[-1:])]))
    return status


def channels_note(pixel_formats: Mapping[str, PixelFormat]) -> str:
    """Returns which channels of A and B are shown where an image has more than people can see; empty if all are."""
    return "; ".join(
        f"of the {pixel_format.channels} channels of {domain} {shown}"
        for domain, pixel_format in pixel_formats.items()
        if (shown := shown_channels(pixel_format.channels))
    )


def read_settings(folder: Path) -> dict[str, Any]:
    """Reads the settings of a run, those of an earlier version as they were.

    Raises:
        UserError: The folder is no run's, or its settings are damaged.
    """
    path = folder / SETTINGS_NAME
    if not path.is_file() or not (folder / EVENTS_NAME).is_file():
        raise UserError(
            f"{folder} is no run's folder, which has {SETTINGS_NAME} and {EVENTS_NAME}; name the --out of a training"
        )
    try:
        settings = parse_yaml(read_limited(path, MAX_YAML_BYTES))
        check(settings, {str: {str: object}})
    except (OSError, DocumentError) as error:
        raise UserError(f"{path} holds no settings of a run ({error})") from error
    return cast(dict[str, Any], settings)


def last_samples(folder: Path, note: str, columns: Sequence[str] = COLUMNS) -> list[ImageBlock]:
    """Returns the newest grid, a block for each direction."""
    step = max(sample_steps(folder), default=0)
    rows = read_samples(folder, step)
    return [
        ImageBlock(
            title=f"{direction}{f' → {domain}' if columns is COLUMNS else ''}, step {step:,}"
            + f" ({note})" * bool(note),
            columns=columns,
            rows=[[reduced(image, LAST_SIDE) for image in row.images] for row in chosen],
            names=[row.name for row in chosen],
        )
        for domain, direction in DIRECTIONS.items()
        if (chosen := [row for row in rows if row.domain == domain])
    ]


def sample_history(folder: Path, note: str = "") -> list[ImageBlock]:
    """Returns the translations of the newest grid's images at some steps, the first and the last among them."""
    grids = {step: read_samples(folder, step) for step in thinned(sample_steps(folder), MAX_STEPS_SHOWN)}
    grids = {step: rows for step, rows in grids.items() if rows}
    if len(grids) < 2:
        return []
    last = grids[max(grids)]
    by_name = {step: {(row.domain, row.name): row for row in rows} for step, rows in grids.items()}

    def block(domain: str) -> ImageBlock:
        chosen = [row for row in last if row.domain == domain]
        return ImageBlock(
            title=DIRECTIONS[domain] + f" ({note})" * bool(note),
            columns=["input", *(f"step {step:,}" for step in grids)],
            rows=[_history_of(row, list(by_name.values())) for row in chosen],
            names=[row.name for row in chosen],
        )

    return [block(domain) for domain in DIRECTIONS if any(row.domain == domain for row in last)]


def _history_of(row: SampleRow, grids: Sequence[Mapping[tuple[str, str], SampleRow]]) -> list[Image.Image]:
    """The input and its translation in each grid; grey where a grid does not have it."""
    small = [reduced(row.images[0], STRIP_SIDE)]
    for grid in grids:
        found = grid.get((row.domain, row.name))
        translated = found.images[1:2] if found else []
        small += [
            reduced(image, STRIP_SIDE) for image in translated or [Image.new("RGB", small[0].size, (128, 128, 128))]
        ]
    return small


def thinned(steps: Sequence[int], count: int) -> list[int]:
    """Returns up to `count` of the steps, evenly spread, the first and the last among them."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]


def _read_scores(folder: Path) -> dict[str, Any] | None:
    """The scores of the checkpoint that the command evaluate wrote beside the run; None of anything else."""
    try:
        found = read_scores(folder / "scores.json")
    except (OSError, DocumentError):
        return None
    return {name: found[name] for name in SHAPE if name in found} if found.keys() & SCORED else None


def _has_checkpoint(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("step_*/manifest.json"))


def _reason(error: BaseException) -> str:
    """Why a run failed, in one line."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
