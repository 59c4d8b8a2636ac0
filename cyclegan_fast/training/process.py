"""What a training process needs of its machine: a lock on its folder, and signals that end it in order."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from cyclegan_fast.errors import UserError
from cyclegan_fast.files import remove_leftovers, storage_errors, try_lock
from cyclegan_fast.monitoring.run_status import LOCK_NAME
from cyclegan_fast.processes import started_by_torchrun

if TYPE_CHECKING:
    import torch

REPEAT_SECONDS = 5.0  # in which torchrun repeats the signal that it got
EXIT_STOPPED = 3  # a signal ended the run early; the same command, with --resume auto after a checkpoint, goes on


def peak_memory_gib(device: torch.device) -> float | None:
    """Returns the peak memory so far in GiB: of CUDA's allocator, or of the process on the CPU (None on Windows)."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def keep_freed_memory(keep: bool = True) -> None:
    """Has the C library keep the memory that steps on the CPU free, since the next step needs it again.

    By default glibc returns it to the system, and every page of it costs a fault when it comes back: 3,000 in a step of
    64 px. Without glibc nothing changes.

    Args:
        keep: False returns what is free, and ends the keeping.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 32 * 2**20)  # the largest that glibc would choose by itself
    libc.mallopt(trim_threshold, -1 if keep else 64 * 2**20)  # -1: never
    if not keep:
        libc.malloc_trim(0)


class RunLock:
    """Makes a run's folder and keeps a second run out of it.

    The operating system releases the lock when the process ends, however. A folder that was new is removed again where
    the block fails before anything else is in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LOCK_NAME

    def __enter__(self) -> RunLock:
        with storage_errors(f"cannot use --out {self.folder}"):
            self.is_new = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a")
        try:
            try_lock(self.file)
            if not os.path.samestat(os.fstat(self.file.fileno()), self.path.stat()):
                raise FileExistsError  # it was removed, and made again by another run
        except OSError:
            self.file.close()
            raise UserError(f"{self.folder}: another run is training in this folder; choose another --out") from None
        for folder in (self.folder, self.folder / "samples", self.folder / "checkpoints"):
            remove_leftovers(folder)  # of a run that was killed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if sys.platform == "win32":  # where no open file can be removed
            self.file.close()
        if error is not None and self.is_new:
            self._remove_if_empty()
        self.file.close()

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            if list(self.folder.iterdir()) == [self.path]:
                self.path.unlink()
                self.folder.rmdir()


class StopSignal:
    """Notes that SIGTERM or SIGINT asked the run to stop after its step; a second one stops the process at once.

    It may be entered again within its block, as by the trainer that it is handed to.

    A signal that the process was started to ignore stays ignored. A shell starts the background jobs of a script
    with SIGINT ignored, so that Ctrl-C at the terminal does not reach them; SIGTERM stops them in order. Outside the
    main thread, which alone may handle signals, none is noted.

    Args:
        owns_process: False in somebody else's program, a notebook for example: a second signal then does what it did
            before, which for Ctrl-C is to raise KeyboardInterrupt.
        at_once: There is no step yet that could be finished: until the trainer sets it to False, the first signal
            raises KeyboardInterrupt.

    torchrun sends its processes the signal that it gets itself: after Ctrl-C in a terminal, which reaches all of them,
    it is the same one again.
    """

    def __init__(self, *, owns_process: bool = True, at_once: bool = False) -> None:
        self.owns_process, self.at_once = owns_process, at_once
        self.depth = 0
        self.requested = False
        self.noted = 0.0  # when the first signal came
        self.signal: int | None = None
        """The signal that asked; None if it was something else."""
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        self.depth += 1
        if self.depth == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not installed from Python
                    self.before[number] = signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if started_by_torchrun() and time.monotonic() < self.noted + REPEAT_SECONDS:
                return
            if self.owns_process:
                os._exit(128 + number)
            self._restore()
            signal.raise_signal(number)
        self.requested, self.signal, self.noted = True, number, time.monotonic()
        if self.at_once:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.depth -= 1
        if self.depth == 0:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
