"""What the mock runtime has seen: calls, faults, allocations."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

WORK = ("kernel", "memcpy", "memset")  # the kinds that become a node of a graph


class Call(NamedTuple):
    """One call that the runtime has seen."""

    kind: str
    """kernel, memcpy, memset, graph, sync, alloc, free, record, wait, capture."""
    name: str
    """Of the kernel or function; of a graph, how many nodes it launches."""
    stream: int
    device: int
    graph: int
    """The capture that it became part of; 0: none."""


def preloaded() -> bool:
    """Whether this process runs on the mock."""
    return any("libmock_cuda" in Path(library).name for library in os.environ.get("LD_PRELOAD", "").split(":"))


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)  # what is preloaded
    library.mock_take_log.restype = library.mock_take_faults.restype = ctypes.c_char_p
    library.mock_allocated.restype = ctypes.c_int64
    library.mock_refuse.argtypes = [ctypes.c_char_p]
    library.mock_launch.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    return library


_LIBRARY = _library() if preloaded() else None


def _mock() -> ctypes.CDLL:
    assert _LIBRARY is not None, "the mock runtime is not loaded: python -m tests.mock_cuda"
    return _LIBRARY


@contextlib.contextmanager
def recorded() -> Iterator[list[Call]]:
    """Yields a list that holds, once the block has ended, the calls that were made in it by any thread."""
    calls: list[Call] = []
    _mock().mock_take_log()
    _mock().mock_log(1)
    try:
        yield calls
    finally:
        _mock().mock_log(0)
        lines = [line.split("\t") for line in _mock().mock_take_log().decode().splitlines()]
        calls += [Call(kind, name, *map(int, numbers)) for kind, name, *numbers in lines]


def take_faults() -> list[str]:
    """The rules that were broken since the last call."""
    return _mock().mock_take_faults().decode().splitlines()


def allocated(device: int) -> int:
    """Bytes of a device that are allocated."""
    return _mock().mock_allocated(device)


def active(device: int) -> bool:
    """Whether anything has been done on a device: whether it would have a context."""
    return bool(_mock().mock_active(device))


def capturing() -> bool:
    """Whether this thread captures."""
    return _mock().mock_capturing() > 0


@contextlib.contextmanager
def nan_on_the_device() -> Iterator[None]:
    """Within the block every array of floats that is read back is NaN; whole numbers are -1."""
    _mock().mock_read_back(0xFF)
    try:
        yield
    finally:
        _mock().mock_read_back(0)


@contextlib.contextmanager
def refused_launches(part_of_name: str) -> Iterator[None]:
    """Within the block kernels of this name cannot be launched."""
    _mock().mock_refuse(part_of_name.encode())
    try:
        yield
    finally:
        _mock().mock_refuse(b"")


def launch(name: str, stream: int) -> int:
    """Stands for a kernel of a library that has no mock of its own; returns CUDA's error, 0 for none."""
    return _mock().mock_launch(name.encode(), stream)
