"""Which images each of several training processes takes, where they are in tar shards."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import ImageFile


def in_shards(sources: Sequence[ImageFile]) -> bool:
    """Whether any of these is a member of an archive."""
    return any(source.member for source in sources)


def owners(sources: Sequence[ImageFile], world: int) -> np.ndarray:
    """Deals images out to `world` processes, file by file: a shard goes to one of them as a whole.

    The largest file is dealt first, each to the process that has the fewest images so far. The same images are
    dealt alike everywhere.

    Returns:
        The rank that each image belongs to, int32 [len(sources)].

    Raises:
        UserError: there are fewer files than processes.
    """
    files: dict[str, int] = {}
    file_of = np.array([files.setdefault(source.path, len(files)) for source in sources], np.int64)  # [len(sources)]
    if len(files) < world:
        raise UserError(
            f"{world} processes share {len(files)} shard{'s' * (len(files) != 1)}, but each needs one of its own (the "
            f"first is {sources[0].path}): make smaller shards, or start fewer processes"
        )
    images = np.bincount(file_of)  # [files]
    held = [(0, rank) for rank in range(world)]
    owner = np.empty(len(files), np.int32)
    for file in np.argsort(-images, kind="stable"):
        count, rank = held[0]
        owner[file] = rank
        heapq.heapreplace(held, (count + int(images[file]), rank))
    return owner[file_of]
