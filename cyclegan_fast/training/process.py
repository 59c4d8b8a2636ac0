"""What a training process needs of its machine: a lock on its folder, and signals that end it in order."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType

import torch

from cyclegan_fast.errors import UserError
from cyclegan_fast.files import storage_errors, try_lock


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
        with storage_errors(f"cannot use the folder {self.path.parent}"):
            self.file = self.path.open("a")
        try:
            try_lock(self.file.fileno())
        except OSError:
            self.file.close()
            raise UserError(
                f"{self.path.parent}: another run is training in this folder; choose another --out"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


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
