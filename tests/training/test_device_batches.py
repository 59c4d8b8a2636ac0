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
    uploads = DeviceBatches(iter(given), torch.device("cpu"))
    assert [next(uploads), next(uploads)] == given[:2]
    assert uploads.waited() == 0.75
    assert uploads.waited() == 0.0
    next(uploads)
    assert uploads.waited() == 1.0
