"""Working weights: 16-bit copies of the weights of convolutions, which autocast would otherwise make in every pass."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn


class WorkingWeight:
    """A weight rounded to 16 bits: a leaf of its own, so that a backward pass gives its gradient in 16 bits as well.

    `adam_step` changes both; after a change of the weight alone the next read rounds it anew.
    """

    def __init__(self, weight: nn.Parameter, dtype: torch.dtype) -> None:
        self.weight = weight
        self.rounded = weight.detach().to(dtype).requires_grad_()
        self.lead = self._lead()

    def read(self) -> Tensor:
        """Returns the weight in 16 bits."""
        if self._lead() != self.lead:
            with torch.no_grad():
                self.rounded.copy_(self.weight)
            self.lead = self._lead()
        return self.rounded

    def _lead(self) -> int:
        """By how many changes the weight is ahead of its copy: the same as long as both change together."""
        return self.weight._version - self.rounded._version


class ReadsWorkingWeights:
    """A mixin for modules whose `forward` takes its weights from `read`: under autocast, working weights if it has any.

    They are no part of the module's state, which holds the weights alone.
    """

    working: Mapping[str, WorkingWeight] = MappingProxyType({})  # by the weight's name

    def read(self, name: str) -> Tensor:
        """Returns what `forward` is to use for the weight of this name."""
        weight: Tensor = getattr(self, name)
        if name in self.working and torch.is_autocast_enabled(weight.device.type):
            return self.working[name].read()
        return weight


def make_working_weights(network: nn.Module, dtype: torch.dtype | None) -> None:
    """Gives every module that can read them working weights, of trained weights; with None takes them away."""
    for module in network.modules():
        if isinstance(module, ReadsWorkingWeights):
            weights = module.named_parameters(recurse=False)  # type: ignore[attr-defined]
            module.working = {name: WorkingWeight(w, dtype) for name, w in weights if dtype and w.requires_grad}


def gradient_leaves(network: nn.Module) -> list[Tensor]:
    """Returns what the forward pass reads of each weight that is trained: its working weight, or the weight itself."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    pairs = zip(weights, working_weights(network), strict=True)
    return [weight if working is None else working.rounded for weight, working in pairs]


def working_weights(network: nn.Module) -> list[WorkingWeight | None]:
    """Returns the working weight, or None, of each weight of the network that is trained, in the order of those."""
    found = {
        working.weight: working
        for module in network.modules()
        if isinstance(module, ReadsWorkingWeights)
        for working in module.working.values()
    }
    return [found.get(weight) for weight in network.parameters() if weight.requires_grad]
