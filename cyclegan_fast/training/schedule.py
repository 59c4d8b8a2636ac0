"""The learning rate over the epochs."""

from __future__ import annotations

import math
from typing import Any

from cyclegan_fast.config import OptimConfig

PLATEAU_FACTOR = 0.2
PLATEAU_THRESHOLD = 0.01  # relative: a loss must fall by 1 % to count as better
PLATEAU_PATIENCE = 5  # epochs without a better loss before the rate drops


class LearningRate:
    """Adam's learning rate in each epoch; the plateau policy also watches the generators' loss."""

    def __init__(self, config: OptimConfig) -> None:
        self.config = config
        self.best = math.inf
        self.bad_epochs = 0
        self.drops = 0

    def at(self, epoch: int) -> float:
        """Returns the rate in epoch 1, 2, ...; linear: lr (1 - max(0, epoch - n_epochs) / (n_epochs_decay + 1))."""
        c = self.config
        if c.lr_policy == "linear":
            return c.lr * (1 - max(0, epoch - c.n_epochs) / (c.n_epochs_decay + 1))
        if c.lr_policy == "step":
            return c.lr * c.lr_gamma ** ((epoch - 1) // c.lr_decay_iters)
        if c.lr_policy == "cosine":  # half a wave over the whole run
            return c.lr * (1 + math.cos(math.pi * (epoch - 1) / (c.n_epochs + c.n_epochs_decay))) / 2
        return c.lr * PLATEAU_FACTOR**self.drops

    def observe(self, loss: float) -> None:
        """Updates the plateau policy with the generators' mean loss of the epoch that has ended."""
        if loss < self.best * (1 - PLATEAU_THRESHOLD):
            self.best, self.bad_epochs = loss, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > PLATEAU_PATIENCE:
            self.drops, self.bad_epochs = self.drops + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the plateau policy."""
        return {"best": self.best, "waited": self.bad_epochs, "drops": self.drops}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where `state_dict` was taken."""
        self.best, self.bad_epochs, self.drops = state["best"], state["waited"], state["drops"]
