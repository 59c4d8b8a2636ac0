"""Batches that are copied to the device and normalised there while the step before still runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch


class DeviceBatches(Iterator[dict[str, Any]]):
    """Yields the batches, made on a CUDA stream of their own, and measures how long steps wait for them.

    The host runs ahead of the GPU, so a batch is being copied while the last step runs; the current stream waits for
    it only when it is returned. No batch is taken from `batches` before it is asked for.

    Args:
        batches: An endless iterator.
        device: Where the batches are made.
    """

    def __init__(self, batches: Iterator[dict[str, Any]], device: torch.device) -> None:
        self.batches, self.device = batches, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.seconds = 0.0  # waited since the last call of `waited`
        self.uncounted: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()  # (step done, batch ready)

    def __next__(self) -> dict[str, Any]:
        """Returns the next batch, ready for the current stream."""
        if self.stream is None:
            start = time.perf_counter()
            batch = next(self.batches)
            self.seconds += time.perf_counter() - start
            return batch
        current = torch.cuda.current_stream(self.device)
        step_done, batch_ready = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        step_done.record(current)
        with torch.cuda.stream(self.stream):
            batch = next(self.batches)
        batch_ready.record(self.stream)
        current.wait_stream(self.stream)
        for domain in ("A", "B"):
            batch[domain].record_stream(current)  # no later batch gets its memory before the current stream is done
        self.uncounted.append((step_done, batch_ready))
        self._count()
        return batch

    def waited(self) -> float:
        """Returns the seconds for which steps have waited for their batch since the last call.

        On CUDA this is time of the GPU: the host asks for a batch long before the GPU has done the step before. Batches
        that the GPU has not reached yet are left to the next call.
        """
        self._count()
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def _count(self) -> None:
        while self.uncounted and all(event.query() for event in self.uncounted[0]):
            step_done, batch_ready = self.uncounted.popleft()
            self.seconds += max(0.0, step_done.elapsed_time(batch_ready)) / 1e3  # negative where the batch came first
