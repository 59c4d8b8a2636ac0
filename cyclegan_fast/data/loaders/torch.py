"""The loader "torch": images decoded, resized and cropped in worker processes, normalised on the device."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from cyclegan_fast.data import transforms
from cyclegan_fast.data.loaders.base import Batch, Loader
from cyclegan_fast.data.loaders.prefetch import MAX_BYTES, Prefetched
from cyclegan_fast.data.loaders.samples import Samples, Skipped
from cyclegan_fast.data.loaders.shared_memory import (
    AHEAD,
    batch_bytes,
    bytes_to_hold,
    fitting_workers,
    moved_to_shared_memory,
)
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.tensors import to_model_range
from cyclegan_fast.processes import main_left_alone

log = logging.getLogger(__name__)


class WorkersLoader(Loader):
    """See `Loader`; the workers start with the first batch."""

    name = "torch"

    def __init__(self, samples: Samples, **options: Any) -> None:
        super().__init__(samples, **options)
        self._batch_bytes = batch_bytes(samples, self.batch_size)
        self.workers = fitting_workers(samples.config.workers, default_workers(self.device), self._batch_bytes)
        self._processes: list[Any] = []

    @property
    def description(self) -> str:
        """How many processes decode."""
        return f"{self.workers} worker process{'' if self.workers == 1 else 'es'}"

    def start(self, sample: int) -> Iterator[Batch]:
        """Raw batches of pixels, [N, H, W, C]; the iterator owns the workers and joins them as it goes.

        DataLoader keeps a fixed number of batches ready; `Prefetched` adapts it, takes them over from the workers, and
        decodes beside the training where there are none.
        """
        interrupts = signal.getsignal(signal.SIGCHLD)
        loader = DataLoader(
            _Cropped(self.samples),
            batch_size=self.batch_size,
            sampler=_From(self.samples, sample),
            num_workers=self.workers,  # torch gives every worker a single thread
            prefetch_factor=AHEAD if self.workers else None,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context=_start_method(self.device) if self.workers else None,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # or it would draw from, and so move, the global one
        )
        with main_left_alone():
            batches = iter(loader)
        self._processes = getattr(batches, "_workers", [])
        if threading.current_thread() is threading.main_thread():
            # DataLoader's own handler would raise in the middle of a training step; it also finds out by itself.
            signal.signal(signal.SIGCHLD, interrupts or signal.SIG_DFL)
        in_shared_memory = self.workers > 0 and self.device.type == "cpu"  # of a GPU they are in pinned memory by then
        limit = bytes_to_hold(self.workers, self._batch_bytes, MAX_BYTES) if in_shared_memory else MAX_BYTES
        return Prefetched(_until_a_worker_dies(batches), _bytes_of, max_bytes=limit)

    def close(self) -> None:
        """Ends the workers; one that hangs, as the disk under it does, is killed, or the program would wait for it."""
        super().close()
        for process in self._processes:
            if process.is_alive():
                process.kill()
        self._processes = []

    def images_of(self, raw: Batch, side: str) -> Tensor:
        """Copies the pixels to the device and normalises them there."""
        pixels = raw[side].to(self.device, non_blocking=True)
        return to_model_range(pixels, channels_last=self.channels_last)


class _Cropped(Dataset[dict[str, Any]]):
    """Sample number -> its pixels, cropped and mirrored: the part that runs in the workers."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> dict[str, Any]:
        samples = self.samples
        sample = samples.draw(number)
        skipped: Skipped = []
        try:
            file_A, pixels_A = samples.read(0, sample.index_A, skipped)
            file_B, pixels_B = samples.read(1, sample.index_B, skipped)
        except UserError as error:
            return {"failure": str(error)}
        return {
            "A": transforms.crop(pixels_A, samples.config, sample.augmentation_A),
            "B": transforms.crop(pixels_B, samples.config, sample.augmentation_B),
            "paths_A": str(file_A),
            "paths_B": str(file_B),
            "skipped": skipped,
        }


def _until_a_worker_dies(batches: Iterator[Batch]) -> Iterator[Batch]:
    try:
        yield from batches
    except (RuntimeError, ConnectionError, EOFError) as error:  # the latter: it died while it handed a batch over
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        yield {
            "failure": "a process that reads images was killed, perhaps for want of memory: go on with --resume auto "
            "and fewer --workers"
        }


def _bytes_of(raw: Batch) -> int:
    return sum(part.nbytes for part in raw.values() if isinstance(part, Tensor))


def default_workers(device: torch.device) -> int:
    """Processes that decode: few on the CPU, whose cores the training itself wants, up to 8 for a GPU."""
    return min(8 if device.type == "cuda" else 1, usable_cores() - 1)


class _From:
    """The numbers of the samples to take, from `first` on."""

    def __init__(self, samples: Samples, first: int) -> None:
        self.samples, self.first = samples, first

    def __iter__(self) -> Iterator[int]:
        return self.samples.numbers(self.first)


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks the pixels to [N, H, W, C]; one failed sample fails the batch."""
    for sample in samples:
        if "failure" in sample:
            return sample
    pixels = {side: torch.from_numpy(np.stack([s[side] for s in samples])) for side in ("A", "B")}
    if get_worker_info() is not None:
        try:
            pixels = {side: moved_to_shared_memory(part) for side, part in pixels.items()}
        except UserError as error:
            return {"failure": str(error)}
    return {
        **pixels,
        **{paths: [s[paths] for s in samples] for paths in ("paths_A", "paths_B")},
        "skipped": [entry for s in samples for entry in s["skipped"]],
    }


def _start_method(device: torch.device) -> str:
    """A process that has opened CUDA must not be forked; on the CPU a fork starts at once and shares torch's pages."""
    preferred = "forkserver" if device.type == "cuda" else "fork"
    return preferred if preferred in multiprocessing.get_all_start_methods() else "spawn"


def _start_worker(number: int) -> None:
    """Sets up a worker process.

    Ctrl-C and the like reach a whole process group; the trainer answers them, and then ends its workers itself. A batch
    that cannot be sent would be missing without notice, and waited for: the end of its worker is noticed.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, batch: object) -> None:
    log.warning("a process that reads images cannot hand over a batch: %s", error)
    os._exit(1)
