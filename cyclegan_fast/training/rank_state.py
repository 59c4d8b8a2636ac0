"""What each rank has for itself in a checkpoint: its image pools and its random states.

The first rank's lie where those of a run with one process do; those of the others follow in the list ``ranks``. With
another number of ranks a run goes on with those that are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

from cyclegan_fast.checkpoint.tensor_file import tensor_file
from cyclegan_fast.checkpoint.tree import pack, unpack
from cyclegan_fast.data.rng import RandomUse, rng_for

LIST = "ranks"  # in the state of a checkpoint, of the second rank and those after it


def seed_of_rank(seed: int, rank: int) -> int:
    """Returns the seed of what a rank draws for itself; the first rank's is that of the run."""
    return seed if rank == 0 else int(rng_for(seed, RandomUse.RANK, rank).integers(2**62))


def own_state(step: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Returns what a rank has for itself: its pools, among the state of a step, and its random states."""
    return {
        "pools": {name: part for name, part in step.items() if name.startswith("pool_")},
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def to_bytes(state: dict[str, Any]) -> bytes:
    """Returns the state as bytes: the length of its structure, that, and its tensors."""
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(pack(state, tensors)).encode()
    return b"".join([len(structure).to_bytes(8, "little"), structure, *tensor_file(tensors)])


def from_bytes(data: bytes) -> Any:
    """Returns the state that `to_bytes` was given, its tensors on the CPU."""
    begin = 8 + int.from_bytes(data[:8], "little")
    return unpack(json.loads(data[8:begin]), safetensors.torch.load(data[begin:]))
