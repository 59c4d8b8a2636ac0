"""adam_step: one update by Adam of many weights, in a few launches, with all its decisions on the device.

The training step alone calls it: it is no function of images, so that `cyclegan_fast.ops` does not export it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.ops import reference
from cyclegan_fast.ops.adam_inputs import AdamGroup, Gradients, LossScale
from cyclegan_fast.ops.extension import extension_available, runs_reference

MAX_WEIGHTS = 64  # of one launch, kMaxAdamWeights in csrc/kernels/adam.h


def adam_step(
    groups: Sequence[AdamGroup],
    *,
    lr: Tensor,
    betas: tuple[float, float],
    eps: float,
    loss_scale: LossScale | None = None,
) -> None:
    """Updates the weights of each group as torch.optim.Adam does, without weight decay (Kingma and Ba 2015).

    A group with a loss or a gradient that is not finite is skipped: weights, moments and step count stay as they are,
    and the loss scale halves. The host reads nothing, so that a CUDA graph can hold the call. On CUDA it is one launch
    for the decisions, and two more for each 64 weights, one of which looks at the gradients.

    Args:
        groups: one or two.
        lr: the learning rate, a scalar float64 on the device of the weights.
        betas: how much of the running means stays, of the gradient's and of its square's.
        eps: added to the root of the second one.
        loss_scale: what the gradients are multiplied by; none: 1.

    Raises:
        RuntimeError: if a tensor has another type, shape, layout or device than said above, or there are more groups.
    """
    groups = [live for live in map(_with_gradients, groups) if live.weights]
    if not groups:
        return
    changed = [w for group in groups for w in (*group.weights, *group.working) if w is not None]
    with torch.no_grad():
        if runs_reference(groups[0].weights[0]):
            reference.adam_step(groups, lr, betas, eps, loss_scale)
        else:
            _launch(groups, lr, betas, eps, loss_scale)
    torch.autograd.graph.increment_version(changed)


def _with_gradients(group: AdamGroup) -> AdamGroup:
    """The group without the weights that have no gradient, and with the first gradient of the others in its place."""
    others = group.other_gradients or [None] * len(group.weights)
    both = [(b, None) if a is None else (a, b) for a, b in zip(group.gradients, others, strict=True)]
    live = [i for i, (gradient, _) in enumerate(both) if gradient is not None]
    pick = lambda tensors: [tensors[i] for i in live]  # noqa: E731
    return group._replace(
        weights=pick(group.weights),
        exp_avg=pick(group.exp_avg),
        exp_avg_sq=pick(group.exp_avg_sq),
        working=pick(group.working),
        gradients=[both[i][0] for i in live],
        other_gradients=[both[i][1] for i in live],
    )


def _launch(
    groups: Sequence[AdamGroup], lr: Tensor, betas: tuple[float, float], eps: float, loss_scale: LossScale | None
) -> None:
    with torch._C._AutoDispatchBelowAutograd():
        torch.ops.cyclegan_fast.adam_step(
            *(_joined(groups, name) for name in ("weights", "exp_avg", "exp_avg_sq")),
            [k for k, group in enumerate(groups) for _ in group.weights],
            _joined(groups, "gradients"),
            *_present(_joined(groups, "other_gradients")),
            *_present(_joined(groups, "working")),
            _joined(groups, "losses"),
            [k for k, group in enumerate(groups) for _ in group.losses],
            [group.step for group in groups],
            lr,
            *betas,
            eps,
            *(loss_scale or (None, None, 0)),
        )


def _joined(groups: Sequence[AdamGroup], field: str) -> list[Any]:
    return [tensor for group in groups for tensor in getattr(group, field)]


def _present(tensors: Gradients) -> tuple[list[Tensor], list[int]]:
    """Those that are there, and their places."""
    at = [i for i, tensor in enumerate(tensors) if tensor is not None]
    return [tensors[i] for i in at], at  # type: ignore[misc]


def _fake(*arguments: Any) -> None:
    """It changes its arguments alone."""


if extension_available():
    torch.library.register_fake("cyclegan_fast::adam_step", _fake)
