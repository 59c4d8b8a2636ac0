"""What adam_step is given: weights with their state and gradients, and the loss scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

Gradients = Sequence[Tensor | None]


class AdamGroup(NamedTuple):
    """Weights that are updated together, or skipped together, and what is known of them in this step."""

    weights: Sequence[Tensor]  # float32 or float64, contiguous or channels_last; changed in place, as are the next four
    exp_avg: Sequence[Tensor]  # the running mean of each weight's gradient, in the layout of the weight
    exp_avg_sq: Sequence[Tensor]  # that of its square
    working: Sequence[Tensor | None]  # the weights rounded to bfloat16 or float16, where something reads them so
    step: Tensor  # scalar float32: updates so far
    gradients: Gradients  # of each weight, multiplied by the loss scale; a weight without one stays as it is
    other_gradients: Gradients  # what is added to them in the type of the weights; empty: nothing
    losses: Sequence[Tensor]  # scalars in the type of the weights: one that is not finite skips the update


class LossScale(NamedTuple):
    """What fp16 gradients are multiplied by; changed in place as `torch.amp.GradScaler` does by default."""

    scale: Tensor  # scalar float32
    growth_tracker: Tensor  # scalar int32: updates since it last changed
    growth_interval: int  # updates after which it doubles
