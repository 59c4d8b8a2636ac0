"""Which ranks are lost: a collective that fails does not say, so the rank that notices asks all others.

Most ranks notice only that a neighbour, which noticed before them, has ended. So a thread of each rank listens at a
port of its own and answers, whatever the rank does meanwhile; and who has asked hands what it found to those that
answered, which report the same. After the start nothing is sent and no thread wakes until a collective fails.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import os
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from cyclegan_fast.data.locations.locations import first_few
from cyclegan_fast.errors import UserError

ANSWER_SECONDS = 1.5  # that a rank has to answer, and to hand over what it has found
START_SECONDS = 15.0  # the same at the start, where a machine may be busy with starting all of them
WAITS, WORKS = "waits", "works"  # what a rank answers: whether it waits for others
LATE = "late"  # what a rank asks with whose own time is over
MAX_LINE = 2**16  # bytes


class RankError(UserError):
    """Another rank ended, hangs, or failed."""


class Member(NamedTuple):
    """How a rank is reached, and what people know it by."""

    address: str
    port: int
    host: str
    pid: int


class Lost(NamedTuple):
    """What a roll call has found."""

    ranks: list[int]
    hung: bool
    """They did not answer in time; otherwise they have ended."""


class RollCall:
    """One rank's part in finding out which others are lost.

    Args:
        rank: Which one this is.
        master: The host at which the ranks have met, by which this one finds its own address.
        exchange: Gives all ranks' bytes for those of this one, by rank.
    """

    def __init__(self, rank: int, master: str, exchange: Callable[[bytes], list[bytes]]) -> None:
        self.rank = rank
        self.waiting = 0  # blocks that wait for other ranks and have not ended
        self.found: Lost | None = None
        self.handed = threading.Event()  # another rank has found it
        self.late = False  # the time of this rank, or of one that has asked, was over
        self._server: _Server | None = None
        mine: Member | None = None
        with contextlib.suppress(OSError):
            family, address = _own_address(master)
            self._server = _Server(family, self)
            mine = Member(address, self._server.port, socket.gethostname(), os.getpid())
        try:
            parts = [json.loads(part) for part in exchange(json.dumps([secrets.token_hex(16), mine]).encode())]
        except BaseException:
            if self._server:
                self._server.server_close()
            raise
        self.token = parts[0][0]  # without which nobody is answered
        self.members = [Member(*member) for _, member in parts if member]
        self.is_complete = len(self.members) == len(parts)
        if self._server:
            self._server.start()

    def reaches_others(self, seconds: float) -> bool:
        """Whether a rank answers this one, on another host where there are several: if not, a firewall is between.

        Args:
            seconds: How long that rank has to answer.
        """
        if not self.is_complete:
            return False
        world = len(self.members)
        other = (self.rank + max(1, world // 2)) % world
        return other in self._ask_all([other], "", seconds)

    def call(self, hung: bool) -> Lost:
        """Asks all others, and returns who is lost: nobody if all are alive, and the connections alone have failed.

        Args:
            hung: The time was over; those that answer, but do not wait themselves, are then what all others wait for.
                A rank whose time is over closes its connections, so that others may notice only that, even before it
                asks: its question says so, and it hands them what it finds.
        """
        self.late |= hung
        if self.found is None:
            others = [rank for rank in range(len(self.members)) if rank != self.rank]
            answers = self._ask_all(others, LATE if hung else "", ANSWER_SECONDS)
            silent = [rank for rank in others if rank not in answers]
            if not silent and not self.late:
                self.handed.wait(ANSWER_SECONDS)
            busy = [rank for rank, answer in answers.items() if answer == WORKS] if self.late else []
            self.found = self.found or Lost(silent or sorted(busy), self.late)  # may be handed meanwhile
            self._ask_all(answers, json.dumps(self.found), ANSWER_SECONDS)
        return self.found

    def answer(self, message: str) -> str:
        """Returns what another rank is answered, which asks, or hands over what it has found."""
        if message == LATE:
            self.late = True
        elif message:
            self.found = self.found or Lost(*json.loads(message))
            self.handed.set()
        return WAITS if self.waiting else WORKS

    def describe(self, lost: Lost) -> str:
        """Returns the lost ranks with their hosts, and a verb."""
        ranks, world = lost.ranks, len(self.members)
        if not ranks:
            return f"{'' if lost.hung else 'the connection to '}another process of this training has"
        if len(ranks) == 1:
            member = self.members[ranks[0]]
            return f"process {ranks[0]} of {world} (pid {member.pid} on {member.host}) has"
        hosts = list(dict.fromkeys(self.members[rank].host for rank in ranks))
        return f"processes {first_few(list(map(str, ranks)))} of {world} (on {first_few(hosts)}) have"

    def close(self) -> None:
        """Answers nobody any more."""
        if self._server:
            self._server.stop()

    def _ask_all(self, ranks: Iterable[int], message: str, seconds: float) -> dict[int, str]:
        """Sends a message to ranks at once, and returns what those answer that do within some seconds."""
        answers: dict[int, str] = {}
        threads = [
            threading.Thread(target=self._ask, args=(rank, message, seconds, answers), daemon=True) for rank in ranks
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return dict(answers)

    def _ask(self, rank: int, message: str, seconds: float, answers: dict[int, str]) -> None:
        member = self.members[rank]
        with (
            contextlib.suppress(OSError),  # which is what a lost one answers
            socket.create_connection((member.address, member.port), seconds) as connection,
        ):
            connection.settimeout(seconds)
            connection.sendall(f"{self.token} {message}\n".encode())
            if answer := connection.makefile("rb").read(16).decode(errors="replace"):
                answers[rank] = answer


@contextlib.contextmanager
def lost_ranks(seconds: float, roll: RollCall | None = None) -> Iterator[None]:
    """Turns what a collective raises into one sentence.

    Args:
        seconds: How long it waits.
        roll: Finds out which ranks are lost; without it none is named.

    Raises:
        RankError: Another rank has ended, or has not answered for `seconds`.
    """
    if roll:
        roll.waiting += 1
    try:
        yield
    except UserError:
        raise
    except RuntimeError as error:
        lost = Lost([], "imed out" in str(error) or "imeout" in str(error))
        who = "another process of this training has"
        if roll:
            lost = roll.call(lost.hung)
            who = roll.describe(lost)
        what = f"not answered for {seconds:g} s (--rank-timeout)" if lost.hung else "ended"
        raise RankError(
            f"{who} {what}, so this one ends: the same command with --resume auto goes on from the last checkpoint, "
            "with any number of processes"
        ) from error
    finally:
        if roll:
            roll.waiting -= 1


class _Server(socketserver.ThreadingTCPServer):
    """Answers the other ranks, each question on a thread of its own."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, family: int, roll: RollCall) -> None:
        self.address_family, self.roll, self.stopped = family, roll, False
        super().__init__(("", 0), _Handler)
        self.port = int(self.server_address[1])
        self.thread = threading.Thread(target=self._serve, name="roll-call", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def _serve(self) -> None:
        while not self.stopped:
            self.handle_request()

    def stop(self) -> None:
        self.stopped = True
        loopback = "::1" if self.address_family == socket.AF_INET6 else "127.0.0.1"
        with contextlib.suppress(OSError):  # a call that wakes the thread
            socket.create_connection((loopback, self.port), ANSWER_SECONDS).close()
        self.thread.join(ANSWER_SECONDS)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Passes over whoever speaks another language, or has gone."""


class _Handler(socketserver.StreamRequestHandler):
    timeout = START_SECONDS
    server: _Server

    def handle(self) -> None:
        roll = self.server.roll
        token, _, message = self.rfile.readline(MAX_LINE).decode(errors="replace").rstrip("\n").partition(" ")
        if hmac.compare_digest(token.encode(), roll.token.encode()):
            self.wfile.write(roll.answer(message).encode())


def _own_address(master: str) -> tuple[int, str]:
    """Returns the family and the address by which the ranks of other hosts reach this one.

    It is that from which packets to `master` would go. On the host of that name itself it may be the loopback's, which
    others reach by that name alone.
    """
    family, _, _, _, target = socket.getaddrinfo(master, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)  # which sends nothing
        own = str(probe.getsockname()[0])
    return family, master if ipaddress.ip_address(own).is_loopback else own
