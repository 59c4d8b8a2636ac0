"""Which images each of several training processes takes, where they are in tar shards."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import ImageFile


def in_shards(files: Sequence[ImageFile]) -> bool:
    """Whether any of these is a member of an archive."""
    return any(file.member for file in files)


def assign_ranks(files: Sequence[ImageFile], world: int) -> np.ndarray:
    """Deals images out to `world` processes, shard by shard: a shard goes to one of them as a whole.

    The largest shard is dealt first, each to the process that has the fewest images so far. The same images are
    dealt alike everywhere.

    Returns:
        The rank that each image belongs to, int32 [N].

    Raises:
        UserError: There are fewer shards than processes.
    """
    shards: dict[str, int] = {}
    shard_of = np.array([shards.setdefault(file.path, len(shards)) for file in files], np.int64)  # [N]
    if len(shards) < world:
        raise UserError(
            f"{world} processes share {len(shards)} shard{'s' * (len(shards) != 1)}, but each needs one of its own "
            f"(the first is {files[0].path}): make smaller shards, or start fewer processes"
        )
    counts = np.bincount(shard_of)  # images of each shard, [shards]
    loads = [(0, rank) for rank in range(world)]  # a heap of (images so far, rank)
    ranks = np.empty(len(shards), np.int32)
    for shard in np.argsort(-counts, kind="stable"):
        load, rank = loads[0]
        ranks[shard] = rank
        heapq.heapreplace(loads, (load + int(counts[shard]), rank))
    return ranks[shard_of]
