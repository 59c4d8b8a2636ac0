"""One line of the doctor's report, and how it looks for a native library without dying of it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import signal
import warnings
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from cyclegan_fast.errors import one_line
from cyclegan_fast.telemetry import telemetry_disabled

NeededFor = Literal["training", "extension", "option", "caution", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    ok: bool
    message: str
    fix: str | None = None
    """The one command that fixes it."""
    needed_for: NeededFor = "option"
    """What it stands for where it is not ok: training cannot run; the extension is missing; something optional is
    absent; a doubt; something that is installed does not work."""
    seconds: float | None = None
    """That it took, where it was run."""


def version_of(package: str) -> str:
    """The installed version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def is_there(module: str) -> bool:
    """Whether Python finds a module; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # what it is a part of is missing, too; or it is in a broken state
        return False


def import_fault(module: str) -> str:
    """Imports a module in a forked process, which a damaged library may kill; returns what went wrong, or nothing."""
    if not hasattr(os, "fork"):  # Windows
        return _fault_here(module)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads that a library has started: the child only imports, and ends
        child = os.fork()
    if child == 0:
        _report_and_end(module, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        reason = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return f"{how_it_ended(status)} on import" if status else reason


def how_it_ended(status: int) -> str:
    """What became of a process that failed, by its exit code; one that a signal ended has a negative one."""
    ended = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"the process {ended}"


def _report_and_end(module: str, write: int) -> None:
    """Ends the forked process, with status 0 once what is wrong went through the pipe."""
    status = 1
    with contextlib.suppress(BaseException):
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):  # by their numbers: sys.stdin may be None, or no file
            os.dup2(nothing, stream)
        os.write(write, _fault_here(module).encode(errors="replace"))
        status = 0
    os._exit(status)


def _fault_here(module: str) -> str:
    try:
        with telemetry_disabled():
            importlib.import_module(module)
    except BaseException as error:  # whatever a broken package raises; SystemExit, too
        return one_line(error)
    return ""
