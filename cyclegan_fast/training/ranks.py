"""The processes that train one model together (ranks): who this one is, and what all of them must agree on.

torchrun starts them and says who is who by environment variables. Gradients are exchanged between the devices (NCCL
between GPUs, Gloo between CPUs); everything else that ranks agree on goes from host to host over Gloo. So the death or
the hang of a rank is found by the host of every other one, within a limit of time, whatever the devices do.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cyclegan_fast.config import TrainConfig, to_dict
from cyclegan_fast.errors import AgreedError, UserError
from cyclegan_fast.logs import suppressed_output
from cyclegan_fast.monitoring.progress import progress_hidden
from cyclegan_fast.training.meeting import Place, meet
from cyclegan_fast.training.roll_call import START_SECONDS, RankError, RollCall, lost_ranks
from cyclegan_fast.version import __version__

log = logging.getLogger(__name__)

T = TypeVar("T")

PREPARE_SECONDS = 4 * 3600.0  # that ranks wait for the first one while it checks the images: a million take an hour
POLL_SECONDS = 2e-4


class Ranks:
    """All ranks, as this one sees them. Use it as a context manager: they meet at its begin, and part at its end.

    With one process every method returns at once what that one alone agrees on.

    Args:
        place: Which one this is.
        device: Of this rank.
        seconds: How long a rank waits for another one that does not answer.
    """

    def __init__(self, place: Place, device: torch.device, seconds: float) -> None:
        self.place, self.device, self.seconds = place, device, seconds
        self.rank, self.world = place.rank, place.world
        self.is_first = place.rank == 0
        self.group: dist.ProcessGroup | None = None  # of the hosts
        self.patient: dist.ProcessGroup | None = None  # the same, which waits until all have prepared
        self.owns_group = False
        self.roll: RollCall | None = None  # which finds out who is lost

    def __enter__(self) -> Ranks:
        if self.world > 1:
            try:
                self._meet()
            except BaseException as error:
                self.__exit__(type(error), error, error.__traceback__)
                raise
        return self

    def _meet(self) -> None:
        """Connects to all other ranks.

        Raises:
            UserError: They did not come, or cannot be reached.
        """
        cuda = self.device.type == "cuda"
        if cuda and not dist.is_nccl_available():
            raise UserError(
                "this torch has no NCCL, by which GPUs exchange gradients: install another, or --device cpu"
            )
        if not dist.is_initialized():
            store = meet(self.place, self.seconds)
            self.owns_group = True
            backend, device = ("cpu:gloo,cuda:nccl", self.device) if cuda else ("gloo", None)
            with lost_ranks(self.seconds):
                dist.init_process_group(
                    backend, store=store, rank=self.rank, world_size=self.world,
                    timeout=_delta(device_seconds(self.seconds) if cuda else self.seconds), device_id=device
                )  # fmt: skip
        with lost_ranks(self.seconds):
            self.group, self.patient = (
                dist.new_group(backend="gloo", timeout=_delta(seconds)) for seconds in (self.seconds, PREPARE_SECONDS)
            )
        roll = RollCall(self.rank, os.environ.get("MASTER_ADDR") or "localhost", self.all_of)
        with contextlib.ExitStack() as unless_they_answer:
            unless_they_answer.callback(roll.close)
            seconds = min(START_SECONDS, self.seconds / 2)  # all others wait for this one meanwhile
            if any(self.highest(not roll.reaches_others(seconds))):
                log.info("processes of other hosts do not answer: one that is lost later will not be named")
            else:
                unless_they_answer.pop_all()
                self.roll = roll

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.roll:
            self.roll.close()  # before the others can find that this one has left
            self.roll = None
        self.group = self.patient = None
        if self.owns_group and dist.is_initialized():
            self.owns_group = False
            if error is not None and self.device.type == "cuda":  # where ranks may be gone that a kernel waits for
                dist.distributed_c10d._abort_process_group()
            else:
                dist.destroy_process_group()

    # ---- What all agree on.
    def highest(self, *values: float) -> list[float]:
        """Returns the highest of each value over all ranks.

        Each rank hands what it knows 1, 2, 4 ... ranks on: all know all after log2(world) messages, one after the
        other. Gloo's own all-reduce is a ring, of 2 (world - 1) of them.
        """
        if self.group is None:
            return list(values)
        known = torch.tensor(values, dtype=torch.float64)
        distances = [1 << i for i in range((self.world - 1).bit_length())]
        inbox = known.new_empty(len(distances), len(values))
        with self.connected():
            arriving = [
                self.group.recv([part], (self.rank - distance) % self.world, 0)
                for part, distance in zip(inbox, distances, strict=True)
            ]
            for part, distance, arrival in zip(inbox, distances, arriving, strict=True):
                sent = self.group.send([known], (self.rank + distance) % self.world, 0)
                arrival.wait()
                sent.wait()
                known = torch.maximum(known, part)
        return known.tolist()

    def all_of(self, data: bytes, *, patient: bool = False) -> list[bytes]:
        """Returns what each rank has given, by rank."""
        if self.group is None:
            return [data]
        group = self.patient if patient else self.group
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        with self.connected():
            dist.all_gather(sizes, torch.tensor([len(data)]), group=group)
            length = max(1, int(max(sizes)))
            parts = [torch.zeros(length, dtype=torch.uint8) for _ in range(self.world)]
            dist.all_gather(parts, _tensor(data.ljust(length, b"\0")), group=group)
        return [part.numpy().tobytes()[: int(size)] for part, size in zip(parts, sizes, strict=True)]

    def collected(self, data: bytes) -> list[bytes]:
        """Returns to the first rank what each of the others has given, by rank; to those an empty list."""
        if self.group is None:
            return []
        with self.connected():
            if not self.is_first:
                dist.send(torch.tensor([len(data)]), 0, group=self.group)
                dist.send(_tensor(data), 0, group=self.group)
                return []
            found = []
            for rank in range(1, self.world):
                size = torch.zeros(1, dtype=torch.int64)
                dist.recv(size, rank, group=self.group)
                part = torch.zeros(int(size), dtype=torch.uint8)
                dist.recv(part, rank, group=self.group)
                found.append(part.numpy().tobytes())
            return found

    def together(self, task: Callable[[], T]) -> T:
        """Runs a task on every rank and returns its result, once all have done it.

        Raises:
            UserError: The task has failed: here, or on another rank.
        """
        if self.world == 1:
            return task()
        failure: UserError | None = None
        try:
            result = task()
        except RankError:
            raise
        except UserError as error:
            failure = error
        self.raise_together(failure)
        return result

    def from_first(self, task: Callable[[], str]) -> str:
        """Returns on all ranks what a task returns that the first one alone runs.

        Raises:
            UserError: The task has failed there.
        """
        found = self.together(lambda: task() if self.is_first else "")
        return self.all_of(found.encode())[0].decode()

    def raise_together(self, failure: UserError | None) -> None:
        """Raises on all ranks what has failed on some of them.

        Raises:
            UserError: There is such a one.
        """
        if self.world == 1:
            if failure is not None:
                raise failure
            return
        sentences = [part.decode() for part in self.all_of(str(failure or "").encode(), patient=True)]
        failed = [rank for rank, sentence in enumerate(sentences) if sentence]
        if not failed:
            return
        first = sentences[failed[0]]
        alike = all(sentence == first for sentence in sentences)
        raise AgreedError(
            first if alike or failed[0] == 0 else f"process {failed[0]} of {self.world}: {first}"
        ) from failure

    def in_turn(self, task: Callable[[], T]) -> T:
        """Runs a task on the first rank, then on all others: what it writes, these find.

        Raises:
            UserError: The task has failed: here, or on another rank.
        """
        if self.is_first:
            result = self.together(task)
        else:
            self.together(lambda: None)
            result = self.together(task)
        if self.is_first and self.world > 1:
            self.together(lambda: None)
        return result

    def check_alike(self, config: TrainConfig) -> None:
        """Checks that all ranks have the same settings, kind of device, and versions.

        Raises:
            UserError: They differ; the message names what does.
        """
        mine = {
            **{name: value for group in to_dict(config).values() for name, value in group.items()},
            "kind of device": self.device.type,
            "version of cyclegan_fast": __version__,
            "version of torch": str(torch.__version__),
        }
        ranks = [json.loads(part) for part in self.all_of(json.dumps(mine).encode())]
        differences = [
            f"{_flag(name, config)} is {ranks[0].get(name)} in process 0 and {other.get(name)} in process {rank}"
            for rank, other in enumerate(ranks)
            for name in other
            if other[name] != ranks[0].get(name)
        ]
        if differences:
            raise AgreedError(f"all processes must have the same settings: {'; '.join(differences[:5])}")

    @torch.no_grad()
    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Gives all ranks the values that the first one has, in place; the tensors are on the ranks' device."""
        if self.world == 1:
            return
        with self.connected():
            different = {tensor.data_ptr(): tensor for tensor in tensors}.values()
            for dtype in dict.fromkeys(tensor.dtype for tensor in different):
                chosen = [tensor for tensor in different if tensor.dtype == dtype]
                flat = torch.cat([tensor.reshape(-1) for tensor in chosen])
                dist.broadcast(flat, 0)
                parts = flat.split([tensor.numel() for tensor in chosen])
                for tensor, part in zip(chosen, parts, strict=True):
                    tensor.copy_(part.view(tensor.shape))

    def wait_for_device(self) -> None:
        """Returns when the device has done all that was enqueued: a rank that is gone would let it wait for ever.

        Raises:
            RankError: It takes longer than a rank waits for another one.
        """
        if self.group is None or self.device.type != "cuda":
            return
        done, deadline = torch.cuda.Event(), time.monotonic() + self.seconds
        done.record(torch.cuda.current_stream(self.device))
        with self.connected():
            while not done.query():
                if time.monotonic() > deadline:
                    raise RuntimeError("Timed out waiting for the device")
                time.sleep(POLL_SECONDS)

    def connected(self) -> contextlib.AbstractContextManager[None]:
        """Returns the context of whatever waits for other ranks: it names those that are lost.

        Raises:
            RankError: From the block, in place of the error of a collective.
        """
        return lost_ranks(self.seconds, self.roll)


def device_seconds(seconds: float) -> float:
    """Returns how long NCCL waits for another rank before it aborts the process, without a sentence.

    What a step enqueues waits on the device while the hosts get their next batches and agree for up to `seconds`: they
    find a lost rank first, and report it.
    """
    return 2 * seconds + 60


@contextlib.contextmanager
def reported_once(place: Place) -> Iterator[None]:
    """Suppresses, on every rank but the first, what all of them would log and show alike."""
    with contextlib.ExitStack() as stack:
        if place.rank:
            stack.enter_context(suppressed_output("cyclegan_fast"))
            stack.enter_context(progress_hidden())
        yield


def _delta(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=seconds)


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)


def _flag(name: str, config: TrainConfig) -> str:
    is_setting = any(name in group for group in to_dict(config).values())
    return f"--{name.replace('_', '-')}" if is_setting else f"the {name}"
