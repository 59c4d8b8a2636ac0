"""The exponential moving average of the generators' weights (--ema), which images are translated with.

After the t-th update, average += (1 - d) * (weights - average) with d = min(decay, (1 + t) / (10 + t)): the average
forgets the first weights at once and spans the last ninth of the updates, until that is as long as `decay` asks for.
How many updates there were is known on the device alone, which skips one whose loss is not finite; so all of this is
computed there, and a CUDA graph can hold it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

WARM_UP = 9.0  # the share of the newest weights is at first 1 - (1 + t) / (10 + t) = 9 / (10 + t)


class AveragedGenerators:
    """Averaged copies of the generators, frozen and in evaluation.

    Buffers, which are running statistics, are those of the newest step.

    Args:
        generators: Those that are trained, by name; before they get working weights.
        decay: How much of the average an update leaves in the long run, in (0, 1).
    """

    def __init__(self, generators: Mapping[str, nn.Module], decay: float) -> None:
        self.trained, self.decay = dict(generators), decay
        self.networks = {name: _frozen_copy(network) for name, network in self.trained.items()}
        self.weights, self.averages = _pairs(self.trained, self.networks, "parameters")
        self.buffers, self.copies = _pairs(self.trained, self.networks, "buffers")
        self.updates = torch.zeros((), device=self.weights[0].device)  # that the averages have seen, as Adam counts

    @torch.no_grad()
    def update(self, updates: Tensor) -> None:
        """Adds the trained weights to the averages, which stay as they are where the last update was skipped.

        Args:
            updates: How many there have been, a scalar float32 on the device: one more than before, or as many.
        """
        share = (WARM_UP / (updates + (WARM_UP + 1))).clamp_min(1 - self.decay)
        rate = share * (self.updates - updates)  # -share, or 0 after an update that was skipped
        # The one operator of torch that moves many tensors at once by a share that is on the device:
        # x -= rate * (gradient + weight_decay * x) is x += share * (weights - x).
        torch._fused_sgd_(
            self.averages, self.weights, [], lr=rate, weight_decay=-1.0,
            momentum=0.0, dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
        )  # fmt: skip
        self._copy_buffers()
        self.updates.copy_(updates)

    @torch.no_grad()
    def restart(self) -> None:
        """Makes the averages what the trained weights are: of a run that starts from other weights."""
        torch._foreach_copy_(self.averages, self.weights)
        self._copy_buffers()

    def _copy_buffers(self) -> None:
        if self.buffers:
            torch._foreach_copy_(self.copies, self.buffers)


def _frozen_copy(network: nn.Module) -> nn.Module:
    """The same network in evaluation, with copies of its weights and buffers that are not trained."""
    copies: dict[int, Tensor] = {id(w): nn.Parameter(w.detach().clone(), False) for w in network.parameters()}
    copies |= {id(buffer): buffer.clone() for buffer in network.buffers()}
    return copy.deepcopy(network, copies).eval()


def _pairs(
    sources: Mapping[str, nn.Module], targets: Mapping[str, nn.Module], kind: str
) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters or buffers of some networks, and those of their copies.

    As tensors of the same memory that count their changes apart: working weights look at the count of the weights.
    """
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, source in sources.items():
        for tensors, network in zip(found, (source, targets[name]), strict=True):
            tensors += [tensor.data for tensor in getattr(network, kind)()]
    return found
