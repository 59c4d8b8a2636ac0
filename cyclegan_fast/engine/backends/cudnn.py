"""cuDNN's measured choice of algorithms, for a block of code in a process whose settings belong to somebody else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def measured_convolutions() -> Iterator[None]:
    """Within it, a convolution of a new shape tries cuDNN's algorithms and keeps the fastest for its thread.

    `torch.backends.cudnn.benchmark` is a setting of the process: callers hold a lock that all of them share, so that it
    is off afterwards if it was before. Where the host asks for deterministic algorithms, or has frozen torch's
    settings, it is left alone: a choice by time may differ from one process to the next.
    """
    settings = torch.backends.cudnn
    deterministic = settings.deterministic or torch.are_deterministic_algorithms_enabled()
    if settings.benchmark or deterministic or torch.backends.flags_frozen():
        yield
        return
    settings.benchmark = True
    try:
        yield
    finally:
        settings.benchmark = False
