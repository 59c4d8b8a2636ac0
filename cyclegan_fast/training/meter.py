"""Means of the losses and the speed between two log records."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.training.results import Losses

COUNTABLE = 2**24  # one by one in float32


class Meter:
    """Averages the steps since the last record; nothing is read back from the device until it is asked for.

    Args:
        updates: How many updates each optimizer has made, by what it trains: scalars of float32 on the device.
    """

    def __init__(self, updates: Mapping[str, Tensor] | None = None) -> None:
        self.waited: Callable[[], float] = lambda: 0.0
        self.updates = dict(updates or {})
        self.done = 0  # steps of the run so far
        self.values: dict[str, float] | None = None  # of what `read` returns, once it has been read back
        self.skipped_before: dict[str, float] = {}  # updates that were skipped before this record
        self.reset()

    def begin(self, waited: Callable[[], float], done: int = 0) -> None:
        """Starts the clock: steps of before a resume count in the means, and not in the speed.

        Args:
            waited: Returns the seconds for which the steps have waited for data since its last call.
            done: Steps of the run so far.
        """
        self.waited, self.done = waited, done
        if done:  # what was skipped before a resume
            self.values = None
            self.skipped_before = {name: value for name, value in self.read().items() if name in self.updates}
            self.values = None
        self.start, self.timed_steps = time.perf_counter(), 0

    def reset(self) -> None:
        """Starts a new record."""
        self.start, self.steps, self.timed_steps = time.perf_counter(), 0, 0
        if self.values is not None:
            self.skipped_before = {name: self.values[name] for name in self.updates}
        self.sums: Losses = {}
        self.values = None
        self.generators_loss: Tensor | float = 0.0  # of the last step

    def add(self, losses: Losses) -> None:
        """Counts one step."""
        self.steps, self.timed_steps, self.done = self.steps + 1, self.timed_steps + 1, self.done + 1
        self.values = None
        self.generators_loss = torch.stack([v for name, v in losses.items() if not name.startswith("D_")]).sum()
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def read(self) -> dict[str, float]:
        """Returns the sum of each loss and how many updates each optimizer has skipped; one copy, and so one wait."""
        if self.values is None:
            countable = min(self.done, COUNTABLE)
            tensors = self.sums | {name: countable - updates for name, updates in self.updates.items()}
            values = torch.stack(list(tensors.values())).tolist() if tensors else []
            self.values = dict(zip(tensors, values, strict=True))
        return self.values

    def state_dict(self) -> dict[str, Any]:
        """Returns the steps since the last record, and the sum of each loss over them."""
        return {"steps": self.steps, "sums": dict(self.sums)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Goes on with the record that was begun."""
        self.steps, self.values = state["steps"], None
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}

    def means(self) -> dict[str, float]:
        """Returns the mean of each loss."""
        values = self.read()
        return {name: values[name] / self.steps for name in self.sums}

    def not_finite(self) -> list[str]:
        """Returns the names of the losses that were nan or inf in any step of the record."""
        values = self.read()
        return [name for name in self.sums if not math.isfinite(values[name])]

    def skipped(self) -> list[str]:
        """Returns which optimizers have made fewer updates than there were steps in the record."""
        values = self.read()
        return [name for name in self.updates if values[name] > self.skipped_before.get(name, 0)]

    def steps_per_second(self) -> float:
        """Returns the steps since the last record by all the time since then: grids, reports and checkpoints count."""
        return self.timed_steps / (time.perf_counter() - self.start)

    def wait_percent(self) -> float:
        """Returns how much of the time was spent waiting for data, in percent; to be asked once per record."""
        return 100 * self.waited() / (time.perf_counter() - self.start)
