"""Batches carried to the device and normalised there while the step before still runs; how long steps wait for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch


class DeviceBatches(Iterator[dict[str, Any]]):
    """Yields the batches; on CUDA what makes them runs on a stream of its own.

    The host is ahead of the card, so a batch is under way while the last step runs; only then does the current stream
    wait for it. No batch is taken before it is asked for.

    Args:
        batches: Endless.
        device: Where the batches are made.
    """

    def __init__(self, batches: Iterator[dict[str, Any]], device: torch.device) -> None:
        self.batches, self.device = batches, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.seconds = 0.0  # waited since `waited` was last asked
        self.marks: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()  # of batches that are not counted yet

    def __next__(self) -> dict[str, Any]:
        """The next batch, for the current stream."""
        if self.stream is None:
            start = time.perf_counter()
            batch = next(self.batches)
            self.seconds += time.perf_counter() - start
            return batch
        here = torch.cuda.current_stream(self.device)
        done, ready = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # the step before is done; the batch is
        done.record(here)
        with torch.cuda.stream(self.stream):
            batch = next(self.batches)
        ready.record(self.stream)
        here.wait_stream(self.stream)
        for side in ("A", "B"):
            batch[side].record_stream(here)  # its memory is not given to a later batch before this stream is done
        self.marks.append((done, ready))
        self._count()
        return batch

    def waited(self) -> float:
        """Seconds since the last call for which steps had to wait for their batch.

        On CUDA it is the card's time that counts: the host comes for a batch long before the card has done the step
        before. Batches that the card has not come to yet are left to the next call.
        """
        self._count()
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def _count(self) -> None:
        while self.marks and all(event.query() for event in self.marks[0]):
            done, ready = self.marks.popleft()
            self.seconds += max(0.0, done.elapsed_time(ready)) / 1e3  # below 0 where the batch came first
