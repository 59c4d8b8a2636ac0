"""The wait for data on the CPU; test_step_gpu.py has what CUDA adds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from cyclegan_fast.training.device_batches import DeviceBatches


def test_the_time_of_every_batch_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.accumulate([10.0, 0.5, 3.0, 0.25, 7.0, 1.0])  # between the looks at the clock
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    given: list[dict[str, Any]] = [{"A": i} for i in range(3)]
    batches = DeviceBatches(iter(given), torch.device("cpu"))
    assert [next(batches), next(batches)] == given[:2]
    assert batches.waited() == 0.75
    assert batches.waited() == 0.0
    next(batches)
    assert batches.waited() == 1.0
