"""Which of several training processes (ranks) this one is, and how it meets the others.

torchrun starts the ranks, starts them again after a failure, and hands them a store of keys in which they find each
other. The store outlives a start, and so holds addresses of processes that are gone. So the ranks of one start agree on
a name of it first, below which all further keys lie:

    the first rank   writes a new name, waits until every other rank has signed it, and writes who has
    the others       sign the name that they find, and go on once they are among those: a name of before never is
"""

from __future__ import annotations

import datetime
import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from cyclegan_fast.errors import UserError, one_line

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
START = "start all processes with torchrun, which sets them"
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Place:
    """Which of the ranks this process is."""

    rank: int = 0
    world: int = 1
    """How many there are."""
    local_rank: int = 0
    """Among those of this host."""

    def device(self, name: str) -> str:
        """Returns the device of this rank where the settings name `name`.

        Raises:
            UserError: There are more ranks on this host than CUDA devices, or the settings name one for all of them.
        """
        if self.world == 1 or not (name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())):
            return name
        if ":" in name:
            raise UserError(f"--device {name}: each of {self.world} processes has a GPU of its own; use --device cuda")
        found = torch.cuda.device_count()
        if self.local_rank >= found:
            raise UserError(
                f"process {self.local_rank + 1} of this host has no GPU: torch sees {found}; start torchrun with "
                f"--nproc-per-node {found} at most, or train with --device cpu"
            )
        return f"cuda:{self.local_rank}"


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Returns which rank this process is, by the variables that torchrun sets; the only one without them.

    Raises:
        UserError: Some of them are missing, or no numbers.
    """
    if "WORLD_SIZE" not in environment and not {"RANK", "MASTER_ADDR"} <= environment.keys():
        return Place()
    if environment.get("WORLD_SIZE") == "1":
        return Place()
    if missing := [name for name in VARIABLES if not environment.get(name)]:
        there = ", ".join(f"{name}={environment[name]}" for name in VARIABLES if environment.get(name))
        raise UserError(f"the environment has {there}, but no {' and no '.join(missing)}: {START}")
    rank, world, local_rank, _, port = (environment[name] for name in VARIABLES)
    for name, value in (("RANK", rank), ("WORLD_SIZE", world), ("LOCAL_RANK", local_rank), ("MASTER_PORT", port)):
        if not value.isdecimal():
            raise UserError(f"{name}={value!r} in the environment is no number: {START}")
    if not int(rank) < int(world):
        raise UserError(f"RANK={rank} in the environment is not below WORLD_SIZE={world}: {START}")
    return Place(int(rank), int(world), int(local_rank))


def meet(place: Place, seconds: float) -> dist.Store:
    """Returns the store of this start, once all ranks have come; signals are handled meanwhile.

    Raises:
        UserError: Some have not come within `seconds`, or the store cannot be reached.
    """
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store, _, _ = next(
            dist.rendezvous("env://", place.rank, place.world, timeout=datetime.timedelta(seconds=seconds))
        )
        name = (_found if place.rank == 0 else _joined)(store, place, time.monotonic() + seconds)
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"port {os.environ.get('MASTER_PORT')} of this host is in use: choose another one for all "
                "processes, by --master-port of torchrun or the variable MASTER_PORT"
            ) from error
        raise UserError(
            f"process {place.rank} of {place.world} cannot reach the others at {address} ({one_line(error)}): are all "
            "started, and do firewalls let them through?"
        ) from error
    if name is None:
        raise UserError(
            f"process {place.rank} of {place.world} has waited {seconds:g} s for the others at {address} "
            "(--rank-timeout): start all of them"
        )
    return dist.PrefixStore(name, store)


def _found(store: dist.Store, place: Place, deadline: float) -> str | None:
    """Names this start, as the first rank; None if not all have signed in time."""
    name = uuid.uuid4().hex
    store.set("start", name)
    signed = []
    for rank in range(1, place.world):
        signature = f"{name}/signed/{rank}"
        while not store.check([signature]):
            if time.monotonic() > deadline:
                return None
            time.sleep(POLL_SECONDS)
        signed.append(store.get(signature).decode())
    store.set(f"{name}/all", json.dumps(signed))
    return name


def _joined(store: dist.Store, place: Place, deadline: float) -> str | None:
    """Signs the start that the first rank has named; None if that does not come about in time."""
    me = uuid.uuid4().hex
    while time.monotonic() < deadline:
        if store.check(["start"]):
            name = store.get("start").decode()
            store.set(f"{name}/signed/{place.rank}", me)
            if store.check([f"{name}/all"]) and me in json.loads(store.get(f"{name}/all")):
                return name
        time.sleep(POLL_SECONDS)
    return None
