"""What a training process needs of its machine: a device, a lock on its folder, and signals that end it in order."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType

import torch

from cyclegan_fast.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Turns ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device that is there.

    Raises:
        UserError: The name is no device, or CUDA is asked for and missing.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device: expected auto, cpu, cuda or cuda:<index>, got '{name}'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices here; say --device cpu")
    return device


def peak_memory_gib(device: torch.device) -> float | None:
    """The most memory held so far, in GiB: the allocator's on CUDA, the process's on the CPU (unknown on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class RunLock:
    """Keeps two runs out of one folder. The operating system lets go of the lock when its process ends, however."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"

    def __enter__(self) -> RunLock:
        self.file = self.path.open("a")
        try:
            _lock(self.file.fileno())
        except OSError:
            self.file.close()
            raise UserError(
                f"{self.path.parent}: another run is training in this folder; choose another --out"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _lock(descriptor: int) -> None:
    """Takes the operating system's lock on an open file, or raises OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class StopSignal:
    """SIGTERM and SIGINT ask the run to stop after its step; a second one stops it at once."""

    def __init__(self) -> None:
        self.requested = False
        self.before: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        with contextlib.suppress(ValueError):  # only the main thread may install handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
