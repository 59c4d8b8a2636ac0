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

from cyclegan_fast.checkpoint.weights import freeze

WARM_UP = 9.0  # of the last t + 10 updates' share: 1 - (1 + t) / (10 + t) = 9 / (10 + t)


class AveragedGenerators:
    """Averaged copies of the generators, frozen and in evaluation.

    Buffers, which are running statistics, are those of the newest step.

    Args:
        generators: Those that are trained, by name; before they get working weights.
        decay: How much of the average an update leaves in the long run, in (0, 1).
    """

    def __init__(self, generators: Mapping[str, nn.Module], decay: float) -> None:
        self.trained, self.decay = dict(generators), decay
        self.networks = {name: freeze(copy.deepcopy(network)) for name, network in self.trained.items()}
        self.weights, self.averages = _pairs(self.trained, self.networks, "parameters")
        self.buffers, self.copies = _pairs(self.trained, self.networks, "buffers")
        self.updates = self.weights[0].new_zeros(())  # that the averages have seen; floating-point, as Adam's count is

    @torch.no_grad()
    def update(self, updates: Tensor) -> None:
        """Adds the trained weights to the averages, which stay as they are where the last update was skipped.

        Args:
            updates: How many there have been, a scalar on the device: one more than before, or as many.
        """
        updates = updates.to(self.updates)
        share = (WARM_UP / (updates + (WARM_UP + 1))).clamp_min(1 - self.decay) * (updates - self.updates)
        differences = torch._foreach_sub(self.weights, self.averages)
        torch._foreach_mul_(differences, share)
        torch._foreach_add_(self.averages, differences)
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


def _pairs(
    sources: Mapping[str, nn.Module], targets: Mapping[str, nn.Module], kind: str
) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters or buffers of some networks, and those of their copies."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, source in sources.items():
        for tensors, network in zip(found, (source, targets[name]), strict=True):
            tensors += getattr(network, kind)()
    return found
