"""One line of the doctor's report, and how it looks for a native library without dying of it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import signal
import sys
import warnings
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from cyclegan_fast.telemetry import telemetry_disabled

NeededFor = Literal["training", "extension", "option", "caution", "broken"]
_MAX_REASON = 500  # characters


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
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return f"the process died of {signal.Signals(os.WTERMSIG(status)).name} on import"
    return reason


def one_line(error: BaseException | str) -> str:
    """What an error says, as one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MAX_REASON else f"{text[: _MAX_REASON - 3]}..."


def _report_and_end(module: str, write: int) -> None:
    """Ends the forked process, after what is wrong went through the pipe."""
    with contextlib.suppress(BaseException):
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_RDWR), stream.fileno())
        os.write(write, _fault_here(module).encode())
    os._exit(0)


def _fault_here(module: str) -> str:
    try:
        with telemetry_disabled():
            importlib.import_module(module)
    except BaseException as error:  # whatever a broken package raises; SystemExit, too
        return one_line(error)
    return ""
