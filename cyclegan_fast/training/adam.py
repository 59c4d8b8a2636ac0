"""Adam's state and the loss scale between two steps; `adam_step` changes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_fast.config import OptimConfig
from cyclegan_fast.nn.working_weights import WorkingWeight, working_weights
from cyclegan_fast.ops.adam_inputs import AdamGroup, LossScale

GROWTH_INTERVAL = 2000  # updates without an overflow after which the loss scale doubles: torch's default
Gradients = list[Tensor | None]  # one for each weight, None where the loss does not depend on it


class Adam:
    """The optimizer of some networks: their trained weights, the moments, and the number of updates so far.

    Args:
        networks: Those whose weights it updates, with their working weights.
        lr: The learning rate, a scalar float64 on their device, which other optimizers may share.
        optim: The settings.
    """

    def __init__(self, networks: Sequence[nn.Module], lr: Tensor, optim: OptimConfig) -> None:
        self.lr, self.betas, self.eps = lr, (optim.beta1, optim.beta2), optim.eps
        self.weights = [w for network in networks for w in network.parameters() if w.requires_grad]
        self.working: list[WorkingWeight | None] = [w for network in networks for w in working_weights(network)]
        self.exp_avg = [torch.zeros_like(w, requires_grad=False) for w in self.weights]
        self.exp_avg_sq = [torch.zeros_like(w, requires_grad=False) for w in self.weights]
        self.steps = torch.zeros((), device=lr.device)

    def group(self, losses: list[Tensor], gradients: Gradients, others: Gradients | None = None) -> AdamGroup:
        """Returns one update for `adam_step`: by the sum of both gradients, skipped if one or a loss is not finite."""
        rounded = [None if working is None else working.rounded for working in self.working]
        state = self.weights, self.exp_avg, self.exp_avg_sq, rounded, self.steps
        return AdamGroup(*state, gradients, others or [], losses)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as torch.optim.Adam saves it."""
        betas, places = self.betas, range(len(self.weights))
        group = {"lr": float(self.lr), "betas": betas, "eps": self.eps, "weight_decay": 0, "amsgrad": False}
        moments = zip(self.exp_avg, self.exp_avg_sq, strict=True)
        state = {i: {"step": self.steps.clone(), "exp_avg": m, "exp_avg_sq": v} for i, (m, v) in enumerate(moments)}
        return {"state": state, "param_groups": [group | {"params": list(places)}]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continues where `state_dict`, or that of torch.optim.Adam over the same weights, was taken."""
        state, (group,) = saved["state"], saved["param_groups"]
        self.lr.fill_(float(group["lr"]))
        self.steps.fill_(max((float(one["step"]) for one in state.values()), default=0.0))
        for i, moments in enumerate(zip(self.exp_avg, self.exp_avg_sq, strict=True)):
            for name, moment in zip(("exp_avg", "exp_avg_sq"), moments, strict=True):
                if i in state:
                    moment.copy_(state[i][name])
                else:  # torch makes the state of a weight with its first gradient
                    moment.zero_()


class LossScaler:
    """What losses are multiplied by so that gradients do not vanish in fp16; saved as torch.amp.GradScaler saves it.

    Args:
        device: Of the losses.
        enabled: Otherwise nothing is scaled.
    """

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        scale, tracker = torch.full((), 2.0**16, device=device), torch.zeros((), dtype=torch.int32, device=device)
        self.state = LossScale(scale, tracker, GROWTH_INTERVAL) if enabled else None

    def scale(self, loss: Tensor) -> Tensor:
        """Returns the loss, scaled."""
        return loss if self.state is None else loss * self.state.scale

    def get_scale(self) -> float:
        """Returns the factor; waits for the device."""
        return 1.0 if self.state is None else self.state.scale.item()

    def state_dict(self) -> dict[str, Any]:
        """Returns the factor and what changes it; nothing where it is not enabled."""
        if self.state is None:
            return {}
        tracker = int(self.state.growth_tracker)
        factors = {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": self.state.growth_interval}
        return {"scale": self.get_scale(), **factors, "_growth_tracker": tracker}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        if self.state is not None:
            self.state.scale.fill_(saved["scale"])
            self.state.growth_tracker.fill_(saved["_growth_tracker"])
