"""How far a run is: status.json in its folder, written with each report."""

from __future__ import annotations

import dataclasses
import json
import time
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cyclegan_fast.documents import DocumentError, Maybe, Number, check, read_json, shown
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import try_lock, write_atomically

FILE_NAME = "status.json"
LOCK_NAME = ".lock"  # held by the process that trains, and released by the system however it ends

State = Literal["running", "finished", "stopped", "failed", "killed"]


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is; printed without what is long."""

    state: State
    """stopped: by a signal or a callback; failed: by an error; killed: it ended without a chance to write."""
    step: int
    total_steps: int
    seconds_left: float | None = None
    """By the speed of the last minute."""
    message: str = ""
    """Why it failed, in one sentence."""
    written: float = field(default_factory=time.time, repr=False)
    """Seconds since 1970."""
    machine: dict[str, Any] = field(default_factory=dict, repr=False)
    """From `machine_info`."""
    channels_note: str = field(default="", repr=False)
    """Which channels its sample grids show, where that is not all."""


_SHAPE = {
    "state": str,
    "step": Number(0),
    "total_steps": Number(0),
    "seconds_left": Maybe(Number(whole=False)),
    "message": Maybe(str),
    "written": Maybe(Number(0, 2e11, whole=False)),  # up to the year 8300
    "machine": Maybe(dict),
    "channels_note": Maybe(str),
}


def write_status(folder: Path, status: RunStatus) -> None:
    """Writes the status into a run's folder.

    Raises:
        UserError: The file cannot be written.
    """
    write_atomically(folder / FILE_NAME, (json.dumps(dataclasses.asdict(status), indent=1) + "\n").encode())


def read_status(folder: Path) -> RunStatus | None:
    """Reads the status of a run; None of one that an earlier version trained.

    A run that says it is running, but whose process is gone, is "killed".

    Raises:
        UserError: The file is damaged.
    """
    path = folder / FILE_NAME
    try:
        found = read_json(path)
        check(found, _SHAPE)
        if found["state"] not in typing.get_args(State):
            raise DocumentError(f"its state is {shown(found['state'])}")
        status = RunStatus(**{key: found[key] for key in _SHAPE if found.get(key) is not None})
    except FileNotFoundError:
        return None
    except (OSError, DocumentError) as error:
        raise UserError(f"{path} cannot be used ({error}): delete it") from error
    if status.state == "running" and not _is_locked(folder / LOCK_NAME):
        return dataclasses.replace(status, state="killed", seconds_left=None)
    return status


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            try_lock(file)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
