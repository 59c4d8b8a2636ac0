"""Where a run is, in steps and epochs, also after a resume with another number of ranks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.training.schedule import scaled_learning_rate

log = logging.getLogger(__name__)

NEVER = 2**62  # steps


class Position:
    """The steps that are done, and the epoch that they have led to.

    Args:
        config: The settings of the run.
        epoch_size: Samples of an epoch.
        world: The number of ranks that train together.

    Raises:
        UserError: Several ranks take more than a whole epoch in one step.
    """

    def __init__(self, config: TrainConfig, epoch_size: int, world: int = 1) -> None:
        self.config, self.epoch_size, self.world = config, epoch_size, world
        self.images_per_step = config.optim.images_per_step * world
        self.steps_per_epoch = epoch_steps(epoch_size, self.images_per_step, world)
        self.done = 0
        self.ahead = 0  # by how many steps the epochs are ahead of the steps, as other numbers of ranks trained before
        if world > 1 and epoch_size % self.images_per_step:
            log.info(
                "updates of %d images do not divide the %d samples of an epoch: it is rounded up to %d updates, of %d",
                self.images_per_step, epoch_size, self.steps_per_epoch, self.steps_per_epoch * self.images_per_step
            )  # fmt: skip

    @property
    def total_steps(self) -> int:
        """The steps of the whole run."""
        optim = self.config.optim
        epochs = optim.n_epochs + optim.n_epochs_decay
        return min(epochs * self.steps_per_epoch - self.ahead, self.config.run.max_steps or NEVER)

    @property
    def is_at_end(self) -> bool:
        """Whether no step is left."""
        return self.done >= self.total_steps

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to, from 1."""
        return (self.done + self.ahead) // self.steps_per_epoch + 1

    @property
    def last_epoch(self) -> int:
        """The epoch of the step that has just been done, from 1."""
        return (self.done + self.ahead - 1) // self.steps_per_epoch + 1

    @property
    def epoch_has_ended(self) -> bool:
        """Whether the step that has just been done was the last one of its epoch."""
        return (self.done + self.ahead) % self.steps_per_epoch == 0

    def progress(self) -> dict[str, Any]:
        """Returns what a checkpoint stores of it."""
        found: dict[str, Any] = {"step": self.done, "epoch": self.epoch}
        if self.world > 1 or self.ahead:
            found |= {"ranks": self.world, "steps_ahead": self.ahead}
        return found

    def resume(self, progress: Mapping[str, Any]) -> None:
        """Goes on where a checkpoint was; where other numbers of ranks trained before, at the same place in the epoch.

        Args:
            progress: What `progress` has returned.
        """
        self.done = progress["step"]
        before, self.ahead = progress.get("ranks") or 1, progress.get("steps_ahead") or 0
        if before == self.world:
            return
        optim = self.config.optim
        images = optim.images_per_step
        steps_before = epoch_steps(self.epoch_size, before * images, before)
        self.ahead = steps_ahead(self.done, self.ahead, steps_before, self.steps_per_epoch)
        log.info(
            "processes: %d until here, %d from here on: %d images of each domain make an update instead of %d; epoch "
            "%d goes on where it was; %d pairs of image pools go on, %d begin empty", before, self.world,
            self.images_per_step, before * images, self.epoch, min(before, self.world), max(0, self.world - before)
        )  # fmt: skip
        if optim.lr_rule != "none":
            lr, lr_before = (
                scaled_learning_rate(optim.lr, world * images, optim.lr_rule) for world in (self.world, before)
            )
            log.info("--lr-rule %s: the learning rate begins at %.4g instead of %.4g", optim.lr_rule, lr, lr_before)


def epoch_steps(epoch_size: int, images: int, world: int) -> int:
    """Returns the steps of an epoch of so many samples, if each takes `images`.

    Raises:
        UserError: Several ranks would take more than a whole epoch in one step.
    """
    if world > 1 and images > epoch_size:
        raise UserError(
            f"an epoch has {epoch_size} samples, but {world} processes take {images} in one step: start fewer "
            "processes, lower --batch-size, or raise --epoch-size"
        )
    return -(-epoch_size // images)


def steps_ahead(done: int, ahead: int, steps_before: int, steps_now: int) -> int:
    """Returns by how many steps the epochs are ahead of the steps, after the number of steps of an epoch has changed.

    Args:
        done: Steps so far.
        ahead: By how many they were ahead of them before.
        steps_before: Of an epoch.
        steps_now: Of an epoch.
    """
    epochs, steps = divmod(done + ahead, steps_before)
    return epochs * steps_now + round(steps * steps_now / steps_before) - done
