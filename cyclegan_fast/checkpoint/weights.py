"""Weights of a network as a table of tensors, and back, with an error that a user can act on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cyclegan_fast.documents import shown
from cyclegan_fast.errors import UserError


def read_weights(network: nn.Module) -> dict[str, Tensor]:
    """Contiguous (NCHW) copies on the CPU of all weights and buffers."""
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
        for name, tensor in network.state_dict().items()
    }


def assign_weights(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copies `tensors` into the network, each into the device, type and layout that is there.

    Raises:
        UserError: The names or shapes differ; the network is then untouched.
    """
    check_weights(network, tensors, source)
    network.load_state_dict(dict(tensors))


def check_weights(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Compares names and shapes of `tensors` with those of a network, which may be one without memory (device meta).

    Raises:
        UserError: They differ.
    """
    wanted = network.state_dict()
    faults = [f"{name} is missing" for name in wanted if name not in tensors]
    faults += [f"{shown(name)} is not part of the network" for name in tensors if name not in wanted]
    faults += [
        f"{name} has shape {list(tensors[name].shape)}, the network's is {list(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if faults:
        more = f" (and {len(faults) - 1} more such)" if len(faults) > 1 else ""
        raise UserError(f"{source} does not fit the network: {faults[0]}{more}; use the settings it was trained with")


def freeze(network: nn.Module) -> nn.Module:
    """Puts a network into evaluation mode and freezes its weights; returns it."""
    return network.eval().requires_grad_(False)
