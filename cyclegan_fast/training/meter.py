"""Means of the losses and the speed between two log records."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.training.step import Losses


class Meter:
    """Averages the steps since the last record; nothing is read back from the device until it is asked for."""

    def __init__(self) -> None:
        self.waited: Callable[[], float] = lambda: 0.0
        self.reset()

    def begin(self, waited: Callable[[], float]) -> None:
        """Starts the clock: steps of before a resume count in the means, and not in the speed.

        Args:
            waited: Returns the seconds for which the steps have waited for data since its last call.
        """
        self.waited = waited
        self.start, self.timed_steps = time.perf_counter(), 0

    def reset(self) -> None:
        """Starts a new record."""
        self.start, self.steps, self.timed_steps = time.perf_counter(), 0, 0
        self.sums: Losses = {}
        self.values: dict[str, float] | None = None  # of the sums, once they have been read back
        self.generators_loss: Tensor | float = 0.0  # of the last step

    def add(self, losses: Losses) -> None:
        """Counts one step."""
        self.steps, self.timed_steps = self.steps + 1, self.timed_steps + 1
        self.values = None
        self.generators_loss = torch.stack([v for name, v in losses.items() if not name.startswith("D_")]).sum()
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def read(self) -> dict[str, float]:
        """Returns the sum of each loss, all in one copy from the device, which the host waits for."""
        if self.values is None:
            values = torch.stack(list(self.sums.values())).tolist() if self.sums else []
            self.values = dict(zip(self.sums, values, strict=True))
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
        return {name: value / self.steps for name, value in self.read().items()}

    def not_finite(self) -> list[str]:
        """Returns the names of the losses that were nan or inf in any step of the record."""
        return [name for name, value in self.read().items() if not math.isfinite(value)]

    def steps_per_second(self) -> float:
        """Returns the steps since the last record by all the time since then: grids, reports and checkpoints count."""
        return self.timed_steps / (time.perf_counter() - self.start)

    def wait_percent(self) -> float:
        """Returns how much of the time was spent waiting for data, in percent; to be asked once per record."""
        return 100 * self.waited() / (time.perf_counter() - self.start)
