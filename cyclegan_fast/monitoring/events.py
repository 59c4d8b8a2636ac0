"""The event file of a run: one JSON object per line, and the same in TensorBoard's format where that is installed."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from cyclegan_fast.documents import DocumentError, Maybe, Number, check, parse_json, read_limited
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import write_atomically
from cyclegan_fast.monitoring.appended import AppendedFile, Unessential
from cyclegan_fast.monitoring.tensorboard import TensorBoard

EVENTS_NAME = "events.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
_MAX_BYTES, _MAX_LINE = 2**30, 2**20
_VALUE = Maybe(Number(whole=False))
_SHAPE = {
    "step": Number(0, 2**62),
    **dict.fromkeys(("losses", "scores", "spreads", "untranslated"), Maybe({str: _VALUE})),
    "protocol": Maybe(str),
    "warnings": Maybe([{"kind": str, "network": str, "message": str}]),
    **dict.fromkeys(("time", "epoch", "lr", "steps_per_second", "peak_memory_gib"), _VALUE),
    **dict.fromkeys(("data_wait_percent", "data_wait_share"), _VALUE),
}


class EventLog:
    """Appends records to ``events.jsonl``; each is on its way to the disk before `write` returns.

    A disk that fills up meanwhile ends no run: see `AppendedFile`.

    Args:
        folder: The run's folder, created if it is missing.
        resume_step: Steps done by the checkpoint that is being continued; later records are cut off, as their steps
            will be done again. None starts a new log.

    Raises:
        UserError: The folder cannot be written to, or the log to continue is damaged.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        self.path = folder / EVENTS_NAME
        events = [] if resume_step is None else [e for e in read_events(folder) if e["step"] <= resume_step]
        write_atomically(self.path, "".join(_line(event) for event in events).encode())
        self.file = AppendedFile(self.path)
        self.to_tensorboard = Unessential("TensorBoard does not show all")
        self.tensorboard: TensorBoard | None = None
        self.protocol = ""  # of the newest scores that TensorBoard shows
        with self.to_tensorboard, contextlib.suppress(ImportError):  # where it is not installed
            self.tensorboard = TensorBoard(folder / TENSORBOARD_FOLDER, (resume_step or 0) + 1)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, step: int, *, losses: Mapping[str, float] | None = None, **scalars: Any) -> dict[str, Any]:
        """Appends one record: the step, the time (seconds since 1970), the losses, and any further values by name.

        TensorBoard gets the numbers, and the text of ``protocol`` whenever it is another one.

        Numbers that are not finite become null, which JSON can hold.

        Returns:
            The record, with every number as it is.
        """
        event = {"step": step, "time": round(time.time(), 3), **scalars}
        if losses is not None:
            event["losses"] = dict(losses)
        self.file.append(_line(event).encode())
        if self.tensorboard is not None:
            with self.to_tensorboard:
                for name, value in _scalars({**scalars, "loss": losses or {}}):
                    self.tensorboard.scalar(step, name, value)
                if scalars.get("protocol", self.protocol) != self.protocol:
                    self.protocol = scalars["protocol"]
                    self.tensorboard.text(step, "protocol", self.protocol)
        return event

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Shows an RGB image in TensorBoard, where that is installed; the event file holds none."""
        if self.tensorboard is not None:
            with self.to_tensorboard:
                self.tensorboard.image(step, name, image)

    def close(self) -> None:
        """Closes the files."""
        self.file.close()
        if self.tensorboard is not None:
            self.tensorboard.close()


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Reads the records of a run, oldest first; empty if there are none.

    A last line without an end was cut off when its writer was killed and is left out.

    Raises:
        UserError: A line is no record.
    """
    path = folder / EVENTS_NAME
    if not path.is_file():
        return []
    try:
        lines = read_limited(path, _MAX_BYTES).split(b"\n")[:-1]
    except DocumentError as error:
        raise UserError(f"{path} cannot be used: {error}; move it away") from error
    return [_record(path, number, line) for number, line in enumerate(lines, 1)]


def is_log_record(event: Mapping[str, Any]) -> bool:
    """Returns whether a record is one of those of every --log-every steps, and not of scores or warnings."""
    return not event.keys() & {"scores", "warnings"}


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        event = parse_json(line, _MAX_LINE)
        check(event, _SHAPE)
    except DocumentError as error:
        raise UserError(f"{path}, line {number} is no event record ({error}): delete that line") from error
    for group in ("losses", "scores", "spreads", "untranslated"):
        if event.get(group, {}) is None:
            del event[group]
    return _renamed(event)


def _renamed(event: dict[str, Any]) -> dict[str, Any]:
    """A record of an earlier version, whose wait was a share of 1, as records are now."""
    if "data_wait_share" in event:
        share = event.pop("data_wait_share")
        event["data_wait_percent"] = None if share is None else 100 * share
    return event


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(finite(event), allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """Returns `value` as JSON can hold it: scalars of numpy and torch become numbers, nan and inf become None."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Every number in nested mappings, with its path such as ``loss/G_A``."""
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}{key}/")
        elif hasattr(value, "item") or (isinstance(value, int | float) and not isinstance(value, bool)):
            found.append((f"{prefix}{key}", float(value)))
    return found
