"""The learning rate over the epochs."""

from __future__ import annotations

import math
from typing import Any

from cyclegan_fast.config import OptimConfig

PLATEAU_FACTOR = 0.2
PLATEAU_THRESHOLD = 0.01  # relative: a loss must fall by 1 % to count as better
PLATEAU_PATIENCE = 5  # epochs without a better loss before the rate drops

LR_EXPONENTS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


def scaled_learning_rate(lr: float, images: int, rule: str) -> float:
    """Returns the rate for updates of so many images (of each domain, on all devices together), by `--lr-rule`.

    docs/quality.md compares the rules.

    Args:
        lr: The rate for updates of one image.
        images: Images of each domain whose gradients make one update.
        rule: none, sqrt or linear.
    """
    return float(lr * images ** LR_EXPONENTS[rule])


class LearningRate:
    """Adam's learning rate in each epoch; the plateau policy also watches the generators' loss.

    Args:
        config: Adam, the policy, and the rule by which the rate grows with the images of an update.
        images_per_update: Those of each domain, on all devices together; by default those of one device's step.
    """

    def __init__(self, config: OptimConfig, images_per_update: int | None = None) -> None:
        self.config = config
        self.lr = scaled_learning_rate(config.lr, images_per_update or config.images_per_step, config.lr_rule)
        self.best = math.inf
        self.bad_epochs = 0
        self.drops = 0

    def at(self, epoch: int) -> float:
        """Returns the rate in epoch 1, 2, ...; linear: lr (1 - max(0, epoch - n_epochs) / (n_epochs_decay + 1))."""
        c = self.config
        if c.lr_policy == "linear":
            return self.lr * (1 - max(0, epoch - c.n_epochs) / (c.n_epochs_decay + 1))
        if c.lr_policy == "step":
            return self.lr * c.lr_gamma ** ((epoch - 1) // c.lr_decay_iters)
        if c.lr_policy == "cosine":  # half a wave over the whole run
            return self.lr * (1 + math.cos(math.pi * (epoch - 1) / (c.n_epochs + c.n_epochs_decay))) / 2
        return self.lr * PLATEAU_FACTOR**self.drops

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
