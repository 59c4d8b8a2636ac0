"""What each rank has for itself in a checkpoint: its image pools and its random states; and what becomes of the epochs.

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
from cyclegan_fast.errors import UserError

LIST = "ranks"  # in the state of a checkpoint, of the second rank and those after it


def seed_of_rank(seed: int, rank: int) -> int:
    """Returns the seed of what a rank draws for itself; the first rank's is that of the run."""
    return seed if rank == 0 else int(rng_for(seed, RandomUse.RANK, rank).integers(2**62))


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
