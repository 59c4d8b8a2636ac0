"""How many threads of the CPU an engine computes on.

A forked process has none of its parent's threads, and a library that had some waits for them forever: OpenMP, so torch,
as soon as it computes on more than one. So engines of such a process compute on one thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from numbers import Integral

import torch

from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError
from cyclegan_fast.logs import warn_once

log = logging.getLogger(__name__)

_MAX = 1024
_FORK_OF_THREADS = "this process was forked from one in which a library ran threads, which it lacks"
_LOADED_IN_FORK = "start processes by spawn (multiprocessing.get_context), or fork before anything computes"


def check_threads(threads: int | None) -> None:
    """Refuses what is no number of threads.

    Raises:
        UserError: It is no whole number from 1, far too large, or more than one in a fork of a process with threads.
    """
    if threads is None:
        return
    if not isinstance(threads, Integral) or isinstance(threads, bool) or not 1 <= threads <= _MAX:
        raise UserError(f"threads must be a whole number from 1 to {_MAX}, got {threads!r}")
    if threads > 1 and lacks_threads():
        raise UserError(f"threads={threads}: {_FORK_OF_THREADS}: {_LOADED_IN_FORK}, or give threads=1")


def threads_on(device: str, wanted: int | None) -> int | None:
    """The threads of an engine on a device: `wanted`, or the default on a CPU; None on a GPU."""
    if device != "cpu":
        return None
    return default_threads() if wanted is None else int(wanted)


def default_threads() -> int:
    """Returns torch's number, one for each core or what OMP_NUM_THREADS asks for.

    Without that variable it is no more than the cores that this process may use, within its container's CPU limit,
    which torch does not look at. In a fork of a process with threads it is 1, which is reported once.
    """
    if lacks_threads():
        warn_once(log, f"{_FORK_OF_THREADS}, so engines compute on one thread: for more, {_LOADED_IN_FORK}")
        return 1
    threads = torch.get_num_threads()
    return threads if os.environ.get("OMP_NUM_THREADS") else min(threads, usable_cores())


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Lets torch compute on `count` threads within the block, in this thread of Python; None leaves its number.

    A change makes torch start and end threads of its own pools: `load_engine` sets the number of the whole process, so
    that there is none in a call.
    """
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_parent_had_threads = False  # of libraries, when this process last forked
_lacks_threads = False


def lacks_threads() -> bool:
    """Whether this process was forked from one in which a library, and not Python, ran threads."""
    return _lacks_threads


def _count_before_fork() -> None:
    global _parent_had_threads
    try:
        _parent_had_threads = len(os.listdir("/proc/self/task")) > threading.active_count()  # noqa: PTH208
    except OSError:  # macOS, whose libraries do not wait
        _parent_had_threads = False


def _inherit_in_child() -> None:
    global _lacks_threads
    _lacks_threads = _lacks_threads or _parent_had_threads


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_count_before_fork, after_in_child=_inherit_in_child)
