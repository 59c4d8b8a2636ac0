"""Which share of the input a process translates: its rank among those that were started for one output."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from cyclegan_fast.errors import UserError

T = TypeVar("T")


class Rank(NamedTuple):
    """One of `world` processes, counted from 0."""

    number: int
    world: int

    def __str__(self) -> str:
        return f"rank {self.number} of {self.world}"

    @property
    def slug(self) -> str:
        """For names of files."""
        return f"rank-{self.number}-of-{self.world}"

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Returns the items of this rank, every `world`-th: together the ranks have each item once."""
        return items[self.number :: self.world]


def parse_rank(text: str) -> Rank:
    """Reads the value of --rank, such as ``0/8``.

    Raises:
        UserError: It is none.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise UserError(f"--rank must be the rank and the number of ranks, 0/8 to 7/8 for example, got '{text[:80]}'")
    return Rank(int(match[1]), int(match[2]))


def rank_of_environment(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """Returns the rank that torchrun gives a process, in RANK and WORLD_SIZE; None where one of them is not set.

    Raises:
        UserError: They are no rank.
    """
    rank, world = environment.get("RANK"), environment.get("WORLD_SIZE")
    if rank is None or world is None:
        return None
    try:
        return parse_rank(f"{rank}/{world}")
    except UserError as error:
        raise UserError(
            f"the environment has RANK={rank[:80]} and WORLD_SIZE={world[:80]}, which are no rank and number of ranks: "
            "start by torchrun, give --rank, or unset both"
        ) from error


def device_of_rank(device: str, environment: Mapping[str, str] = os.environ) -> str:
    """Gives each rank of a host a GPU of its own, by torchrun's LOCAL_RANK, unless the device names one."""
    local = environment.get("LOCAL_RANK", "")
    if device not in ("auto", "cuda") or not local.isdecimal():
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(local) % count}" if count > 1 else device
