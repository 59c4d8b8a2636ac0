"""A Ray cluster: joined at its address, or started on this machine for one run."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cyclegan_fast.errors import UserError, one_line
from cyclegan_fast.files import scratch_folder
from cyclegan_fast.telemetry import telemetry_disabled

LOCAL = "local"  # in place of an address: RAY_ADDRESS, or else workers on this machine alone

_ANSWER_SECONDS = 10.0  # to wait for a cluster
_STORE_BYTES = 128 * 2**20  # of Ray's object store on this machine: blocks are names, and images never go there
_MAX_FOLDER = 40  # characters of a path below which Ray makes sockets, whose whole path may have some 100
_TOKEN = "RAY_AUTH_TOKEN"  # by which the processes of a cluster know each other
_LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
_STDERR = 2  # which C++ writes to

_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # with empty settings
_HTTP2_SETTINGS = 4  # the type of the first frame of an answer


class Cluster(NamedTuple):
    """A Ray cluster that this process is connected to."""

    ray: Any
    """The module."""
    is_own: bool
    """Whether it was started for this run, and cannot grow."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Yields a cluster; what was started here ends with the block.

    Args:
        address: HOST:PORT of the cluster, ``auto`` for the one that this machine is part of, or `LOCAL`.

    Raises:
        UserError: Ray is not installed, or nobody answers.
    """
    try:
        with telemetry_disabled():
            import ray
            import ray.data
    except ImportError as error:
        raise UserError(f"--ray needs Ray Data ({one_line(error)}): pip install 'cyclegan-fast[ray]'") from error
    if ray.is_initialized():  # by the program that calls this
        yield Cluster(ray, is_own=False)
        return
    if address == LOCAL:
        address = os.environ.get("RAY_ADDRESS", "")
    with contextlib.nullcontext() if address else _left_without_trace() as folder:
        try:
            _connect(ray, address, folder)
            yield Cluster(ray, is_own=not address)
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _left_without_trace() -> Iterator[Path | None]:
    """Yields a folder for the logs and sockets that Ray would leave in /tmp/ray; None where it has to choose one.

    Where Ray would make a token, and leave it in the user's home, it is given one for this run alone.
    """
    makes_token = not _has_token()
    with scratch_folder() as folder:
        try:
            if makes_token:
                os.environ[_TOKEN] = secrets.token_hex(32)
            yield folder if len(str(folder)) <= _MAX_FOLDER and "RAY_TMPDIR" not in os.environ else None
        finally:
            if makes_token:
                os.environ.pop(_TOKEN, None)


def _has_token() -> bool:
    """Whether Ray finds a token that was there before."""
    if _TOKEN in os.environ or f"{_TOKEN}_PATH" in os.environ:
        return True
    try:
        return (Path.home() / ".ray" / "auth_token").is_file()
    except RuntimeError:  # a user without a home folder
        return False


def _connect(ray: Any, address: str, folder: Path | None) -> None:
    """Connects to a cluster, or starts workers on this machine where the address is empty."""
    if address and address != "auto":
        _refuse_unanswered(address)
    options: dict[str, Any] = {"address": address}
    if not address:
        options = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        options |= {"_temp_dir": str(folder)} if folder else {}
    on_sigterm = signal.getsignal(signal.SIGTERM)  # which Ray replaces by one that ends the program without a report
    try:
        with _driver_log_off():
            ray.init(logging_level="ERROR", **options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    except (Exception, SystemExit) as error:  # with which Ray ends the program where a cluster stops to answer
        where = f"--ray {address}: cannot join this cluster" if address else "--ray: workers cannot be started here"
        raise UserError(f"{where} ({one_line(error)}): python -m cyclegan_fast.doctor lists the versions") from error


@contextlib.contextmanager
def _driver_log_off() -> Iterator[None]:
    """Has the core of Ray that starts in this process write to stderr what is fatal alone.

    It would write for each actor of Ray Data that its restart fails where its arguments are lost. They are objects of
    this process, which holds them until the actors end (https://github.com/ray-project/ray/issues/57733). The level is
    set in the environment of C alone, as Ray's other processes are given `os.environ`. The core reports that it is set:
    what is written meanwhile is passed on without that line.
    """
    if _LOG_LEVEL in os.environ or sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(_STDERR)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), _STDERR)
        os.putenv(_LOG_LEVEL, "fatal")
        try:
            yield
        finally:
            os.unsetenv(_LOG_LEVEL)
            sys.stderr.flush()
            os.dup2(terminal, _STDERR)
            os.close(terminal)
            written.seek(0)
            os.write(_STDERR, b"".join(line for line in written if _LOG_LEVEL.encode() not in line))


def _refuse_unanswered(address: str) -> None:
    """Refuses an address at which no server of Ray is, for which Ray itself would wait for minutes.

    Raises:
        UserError: It is no HOST:PORT, or nobody answers there.
    """
    match = re.fullmatch(r"\[?([\w.:-]+?)\]?:(\d{1,5})", address)
    if match is None:
        raise UserError(f"--ray must be auto, or HOST:PORT of a cluster, such as 10.0.0.1:6379, got '{address[:200]}'")
    try:
        with socket.create_connection((match[1], int(match[2])), timeout=_ANSWER_SECONDS) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--ray {address}: nobody answers ({one_line(error)}): start the cluster with `ray start --head`, or "
            "correct the address"
        ) from error
    if len(answer) < 4 or answer[3] != _HTTP2_SETTINGS:
        raise UserError(f"--ray {address}: what answers is not Ray: give the port of the head, 6379 by default")
