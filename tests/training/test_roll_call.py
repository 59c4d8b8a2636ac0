"""Which ranks are lost: named by all that are left, once a collective has failed."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cyclegan_fast.training import roll_call
from cyclegan_fast.training.roll_call import Lost, Member, RankError, RollCall, lost_ranks


@contextlib.contextmanager
def ranks_of(world: int) -> Iterator[list[RollCall]]:
    """The roll calls of so many ranks, all of this process."""
    given: list[bytes] = [b""] * world
    all_there = threading.Barrier(world)

    def rank(number: int) -> RollCall:
        def exchange(data: bytes) -> list[bytes]:
            given[number] = data
            all_there.wait()
            return given

        return RollCall(number, "localhost", exchange)

    with ThreadPoolExecutor(world) as pool:
        ranks = list(pool.map(rank, range(world)))
    try:
        yield ranks
    finally:
        for one in ranks:
            one.close()


@contextlib.contextmanager
def stopped(ranks: list[RollCall], number: int) -> Iterator[None]:
    """Has a rank take calls and answer none, as a process does that a signal has stopped."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for one in ranks:
            one.members[number] = one.members[number]._replace(address="127.0.0.1", port=silent.getsockname()[1])
        yield


def sentence(rank: RollCall, reason: str) -> str:
    """What a rank reports whose collective fails for a reason."""
    with pytest.raises(RankError) as error, lost_ranks(4.0, rank):
        raise RuntimeError(reason)
    return str(error.value)


@pytest.fixture(autouse=True)
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that none of these ranks is lost because the machine is busy; one that has ended refuses at once."""
    monkeypatch.setattr(roll_call, "ANSWER_SECONDS", 10.0)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch, long_waits: None) -> None:
    """For one that is stopped: still long enough for those that are not."""
    monkeypatch.setattr(roll_call, "ANSWER_SECONDS", 5.0)


def test_all_name_who_has_ended_and_nobody_who_ended_because_of_it() -> None:
    with ranks_of(4) as ranks:
        lost = ranks[2].members[2]
        ranks[2].close()
        first = sentence(ranks[0], "Connection closed by peer")
        assert first.startswith(f"process 2 of 4 (pid {lost.pid} on {lost.host}) has ended, so this one ends: ")
        assert ranks[1].found == ranks[3].found == Lost([2], hung=False), "they are told"
        ranks[0].close()
        assert sentence(ranks[1], "Connection closed by peer") == first
        ranks[1].close()
        assert sentence(ranks[3], "Connection closed by peer") == first


@pytest.mark.usefixtures("short_waits")
def test_all_name_who_does_not_answer_and_what_they_say_agrees() -> None:
    """The second one finds only that the first, whose time was over earlier, has closed its connections."""
    with ranks_of(3) as ranks, stopped(ranks, 1):
        first = sentence(ranks[0], "Timed out waiting 4000ms for recv operation to complete")
        assert first.startswith("process 1 of 3 (pid ") and ") has not answered for 4 s (--rank-timeout), so" in first
        ranks[0].close()
        assert sentence(ranks[2], "Connection closed by peer") == first


def noting(holder: Any, method: str) -> threading.Event:
    """Returns what is set as soon as a method is called."""
    called, function = threading.Event(), getattr(holder, method)

    def noted(*arguments: Any) -> Any:
        called.set()
        return function(*arguments)

    setattr(holder, method, noted)
    return called


def test_where_all_answer_the_one_that_does_not_wait_is_what_others_wait_for() -> None:
    with ranks_of(3) as ranks:
        ranks[2].waiting += 1
        assert ranks[0].call(hung=True) == ranks[2].found == Lost([1], hung=True)


def test_who_notices_a_closed_connection_first_leaves_the_name_to_the_one_that_closed_it() -> None:
    """A time that is over closes connections before the rank asks."""
    with ranks_of(3) as ranks, ThreadPoolExecutor(1) as pool:
        for one in (ranks[0], ranks[2]):
            one.waiting += 1
        noticed = noting(ranks[2].handed, "wait")
        second = pool.submit(ranks[2].call, hung=False)
        assert noticed.wait(10)
        assert ranks[0].call(hung=True) == second.result() == Lost([1], hung=True)


@pytest.mark.usefixtures("short_waits")
def test_both_that_ask_at_once_report_a_time_that_is_over() -> None:
    with ranks_of(3) as ranks, stopped(ranks, 1), ThreadPoolExecutor(1) as pool:
        asked = noting(ranks[0], "answer")
        second = pool.submit(ranks[2].call, hung=False)
        assert asked.wait(10)
        assert ranks[0].call(hung=True) == second.result() == Lost([1], hung=True)


def test_where_all_answer_the_connection_alone_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with ranks_of(2) as ranks:
        monkeypatch.setattr(ranks[0].handed, "wait", lambda seconds: False)
        assert sentence(ranks[0], "Connection reset by peer").startswith(
            "the connection to another process of this training has ended, so this one ends: "
        )
    with ranks_of(2) as ranks:
        ranks[1].waiting += 1
        assert sentence(ranks[0], "Timed out").startswith("another process of this training has not answered for 4 s")


def test_many_that_are_lost_are_counted_and_their_hosts_named() -> None:
    with ranks_of(2) as ranks:
        ranks[0].members = [Member("", 0, f"node-{rank // 8}", rank) for rank in range(64)]
        found = ranks[0].describe(Lost(list(range(8, 24)), hung=False))
        assert found == "processes 8, 9, 10 and 13 more of 64 (on node-1, node-2) have"


def test_others_are_not_answered_and_leave_no_trace(capfd: pytest.CaptureFixture[str]) -> None:
    with ranks_of(2) as ranks:
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\n", b"0" * 10**5 + b"\n", b" [[0], false]\n"):
            with (
                socket.create_connection(("localhost", ranks[1].members[1].port), 10) as stranger,
                contextlib.suppress(ConnectionError),
            ):
                stranger.sendall(words)
                assert stranger.recv(100) == b""
        assert ranks[1].found is None
        assert ranks[0].reaches_others(10.0)
    assert capfd.readouterr() == ("", "")


def test_behind_a_firewall_nobody_is_named() -> None:
    with ranks_of(3) as ranks, stopped(ranks, 2):
        assert ranks[0].reaches_others(10.0) and not ranks[1].reaches_others(1.0)


def test_ranks_that_do_not_meet_leave_no_port_open() -> None:
    ports = []

    def fail(data: bytes) -> list[bytes]:
        ports.append(Member(*json.loads(data)[1]).port)
        raise RankError("another process of this training has ended")

    with pytest.raises(RankError):
        RollCall(0, "localhost", fail)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("localhost", ports[0]), 10)
