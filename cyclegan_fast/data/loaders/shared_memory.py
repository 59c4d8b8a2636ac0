"""Shared memory, in which worker processes hand over batches: how much there is, and how many workers it serves.

In a container it is small unless it was asked for: 64 MB is Docker's default.
"""

from __future__ import annotations

import logging
import os

import numpy as np
from torch import Tensor

from cyclegan_fast.data.loaders.cache_memory import dtype_of, format_bytes
from cyclegan_fast.data.loaders.samples import Samples
from cyclegan_fast.data.transforms import sample_size
from cyclegan_fast.errors import UserError

log = logging.getLogger(__name__)

FOLDER = "/dev/shm"
AHEAD = 2  # batches that torch's DataLoader lets each worker prepare
_CONSUMED = 3  # batches: two are held ready, and one is being copied
FIX = "enlarge it (docker run --shm-size 1g)"


def free_shared_memory() -> int | None:
    """Returns the free bytes; None where there is no limit of its own."""
    try:
        status = os.statvfs(FOLDER)
    except (OSError, AttributeError):  # macOS; Windows
        return None
    return status.f_bavail * status.f_frsize


def batch_bytes(samples: Samples, batch_size: int) -> int:
    """Returns the bytes of the pixels of a batch of the largest samples of A and of B."""
    total = 0
    for domain in samples.domains:
        sizes = np.unique(domain.sizes, axis=0).tolist()
        pixels = max(width * height for width, height in (sample_size(tuple(s), samples.config) for s in sizes))
        total += pixels * domain.pixel_format.channels * dtype_of(domain.pixel_format).itemsize
    return total * batch_size


def fitting_workers(wanted: int | None, default: int, batch: int) -> int:
    """Returns how many worker processes there is shared memory for: `wanted`, or up to `default`.

    Args:
        wanted: What was asked for; None where nothing was.
        default: What is taken then, or as many as fit, which is logged.
        batch: Bytes of a batch.

    Raises:
        UserError: There is too little for those that were asked for.
    """
    workers, free = default if wanted is None else wanted, free_shared_memory()
    if workers == 0 or free is None or _needed(workers, batch) <= free:
        return workers
    fitting = max(0, (free // batch - _CONSUMED) // AHEAD)
    message = (
        f"{workers} worker process{'' if workers == 1 else 'es'} would hand over batches in {FOLDER}, which has "
        f"{format_bytes(free)} free of the {format_bytes(_needed(workers, batch))} needed: {FIX}"
    )
    if wanted is not None:
        raise UserError(f"--loader torch: {message}, or use --workers {fitting}")
    log.warning("%s; until then %d decode", message, fitting)
    return fitting


def bytes_to_hold(workers: int, batch: int, limit: int) -> int:
    """Returns how many bytes of batches may be held ready in shared memory: half of what the workers leave."""
    free = free_shared_memory()
    return limit if free is None else min(limit, max(2 * batch, (free - AHEAD * workers * batch) // 2))


def moved_to_shared_memory(pixels: Tensor) -> Tensor:
    """Moves a tensor there, in the process that made it.

    Left to the queue between the processes, it would be done by a thread of its own, whose failure nobody sees.

    Raises:
        UserError: It is full, or there are too many open files.
    """
    try:
        return pixels.share_memory_()
    except (RuntimeError, OSError) as error:
        reason = str(error).rpartition(": ")[2]
        raise UserError(
            f"a process that reads images cannot hand over a batch in {FOLDER} ({reason}): {FIX}, or use fewer "
            "--workers, and go on with --resume auto"
        ) from error


def _needed(workers: int, batch: int) -> int:
    return (AHEAD * workers + _CONSUMED) * batch
