"""The wait for data on the CPU; test_step_gpu.py has what CUDA adds."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cyclegan_fast.training import device_batches
from cyclegan_fast.training.device_batches import DeviceBatches


def test_the_time_of_every_batch_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.accumulate([10.0, 0.5, 3.0, 0.25, 7.0, 1.0])  # between the looks at the clock
    monkeypatch.setattr(device_batches, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    given: list[dict[str, Any]] = [{"A": i} for i in range(3)]
    batches = DeviceBatches(iter(given), torch.device("cpu"))
    assert [next(batches), next(batches)] == given[:2]
    assert batches.waited() == 0.75
    assert batches.waited() == 0.0
    next(batches)
    assert batches.waited() == 1.0


class Event:
    """A CUDA event, recorded at so many milliseconds of the GPU's time."""

    def __init__(self, at: float, *, reached: bool = True) -> None:
        self.at, self.reached = at, reached

    def query(self) -> bool:
        return self.reached

    def elapsed_time(self, other: Event) -> float:
        return other.at - self.at


def test_on_a_gpu_only_waits_that_it_has_reached_count() -> None:
    batches = DeviceBatches(iter([]), torch.device("cpu"))
    late = Event(250.0, reached=False)
    batches.uncounted.extend([(Event(0.0), Event(30.0)), (Event(100.0), Event(90.0)), (Event(200.0), late)])  # type: ignore[list-item]
    assert batches.waited() == pytest.approx(0.03)  # the second batch was ready before its step was done
    assert batches.waited() == 0.0
    late.reached = True
    assert batches.waited() == pytest.approx(0.05)
    assert not batches.uncounted
