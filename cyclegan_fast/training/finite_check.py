"""Whether the steps of a run are finite, and what is reported of the first that is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.training.anomaly import explain_anomaly, nothing_found
from cyclegan_fast.training.base_step import TrainingStep
from cyclegan_fast.training.meter import Meter

MIN_LOSS_SCALE = 1.0  # of fp16: it starts at 65,536 and is halved by every step that overflows


class FiniteCheck:
    """Looks at the losses and gradients of the steps since the last record.

    Args:
        step: The step; it has left every weight as it was that a loss or gradient which is not finite would have moved.
        meter: Its losses and skipped updates.
        config: The settings of the run.
    """

    def __init__(self, step: TrainingStep, meter: Meter, config: TrainConfig) -> None:
        self.step, self.meter, self.config = step, meter, config
        self.fp16 = config.run.amp == "fp16"
        # A GPU is asked now and then, as asking it waits for it.
        self.at_each_step = step.device.type == "cpu" or config.run.detect_anomaly
        self.batch: Mapping[str, Any] | None = None  # of the last step, for --detect-anomaly

    def note(self, batch: Mapping[str, Any]) -> None:
        """Keeps the images of the step that has just been done, if it may be replayed."""
        self.batch = batch if self.config.run.detect_anomaly else None

    def fault(self) -> str:
        """Returns what is not finite; an empty string where all is, and where fp16 overflows as it does now and then.

        The loss scale is halved then, and the update skipped.
        """
        if self.fp16 and self.step.scaler.get_scale() >= MIN_LOSS_SCALE:
            return ""
        losses, skipped = self.meter.not_finite(), self.meter.skipped()
        if losses:
            return f"the loss {' and '.join(losses)} is not finite"
        if not skipped:
            return ""
        if self.fp16:
            return "fp16 overflows without end"
        of = "" if self.step.detects_anomalies else f" of {' and of '.join(skipped)}"  # which skips both together
        return f"a gradient{of} is not finite"

    def weights(self) -> str:
        """Returns which weights a run ends with, at a step that is not finite."""
        skipped = self.meter.skipped()
        updated = [name for name in self.meter.updates if name not in skipped]
        if skipped and updated:
            of, others = " and of ".join(skipped), " and of ".join(updated)
            return f"the weights of {of} of before it, and those of {others}, which were updated,"
        return "the weights of before it"

    def where(self, done: int) -> str:
        """Returns the steps among which the fault is, of `done` steps so far."""
        first = done - (1 if self.at_each_step else self.meter.steps) + 1
        return f"step {done}" if first == done else f"steps {first} to {done}"

    def advice(self) -> str:
        """Returns what is known of the cause and what to do; under --detect-anomaly it replays the last step."""
        if self.batch and (found := explain_anomaly(self.step.networks, self.config, self.batch)):
            return found
        first = "use --amp bf16" if self.fp16 else "look at the images of that step"
        return f"{first}, or lower --lr; the same command with --resume auto --detect-anomaly names layer and tensor"

    def best_advice(self, advices: Sequence[str]) -> str:
        """Returns the advice of the first rank whose own images explain the fault; else that of the first rank."""
        return next((advice for advice in advices if advice != nothing_found(self.config)), advices[0])
