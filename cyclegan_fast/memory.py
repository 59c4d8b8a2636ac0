"""What is reported where memory runs out, on a GPU or on the host: what was asked for, what there is, what helps."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from cyclegan_fast.device import free_memory
from cyclegan_fast.errors import UserError

# Of torch's allocators, cuDNN, cuBLAS and the C++ library; MemoryError and torch.OutOfMemoryError are known by type.
_MESSAGES = re.compile(
    r"DefaultCPUAllocator|out of memory|std::bad_alloc|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED"
)
_ASKED = re.compile(r"(?:[Tt]ried|Unable) to allocate ([\d.]+) (bytes|[KMGTP]iB)")


class TooLittleMemoryError(UserError):
    """The device has too little memory for what was to be done."""


@contextlib.contextmanager
def memory_errors(what: str, device: torch.device, advice: Callable[[], str]) -> Iterator[None]:
    """Turns an allocation that fails in the block into a `TooLittleMemoryError`.

    Args:
        what: What needs the memory, to begin the sentence.
        device: Where it is wanted; the host's memory, which a GPU's work needs too, is distinguished from the GPU's.
        advice: Returns what reduces the need, to end the sentence; asked only then.

    Raises:
        TooLittleMemoryError: An allocation failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        on_host = isinstance(error, MemoryError) or re.search(
            "DefaultCPUAllocator|std::bad_alloc|memory on the host", str(error)
        )
        full = torch.device("cpu") if on_host else device
        name = "this machine" if full.type == "cpu" else str(full)
        raise TooLittleMemoryError(
            f"{what} needs more memory than {name} has ({_describe(error, full)}): {advice()}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an exception is that of an allocation that failed."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(_MESSAGES.search(str(error)))


def _describe(error: BaseException, device: torch.device) -> str:
    """What was asked for, and what there was at that moment."""
    asked = [f"{_gib(asked)} asked for at once"] if (asked := _asked(error)) else []
    return ", ".join([*asked, *(_cuda(device) if device.type == "cuda" else _host())])


def _asked(error: BaseException) -> int | None:
    """Bytes of the allocation that failed; None where the message does not say."""
    found = _ASKED.search(str(error))
    if found is None:
        return None
    unit = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}[found[2]]
    return int(float(found[1]) * unit)


def _cuda(device: torch.device) -> list[str]:
    free, total = torch.cuda.mem_get_info(device)
    reserved, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return [f"{_gib(free)} free of {_gib(total)}", f"{_gib(reserved)} reserved by torch", f"{_gib(used)} of it in use"]


def _host() -> list[str]:
    found = [f"{_gib(free)} free"] if (free := free_memory(torch.device("cpu"))) else []
    if (statm := Path("/proc/self/statm")).exists():
        pages = int(statm.read_text().split()[1])
        found.append(f"{_gib(pages * os.sysconf('SC_PAGE_SIZE'))} in use by this process")
    if limit := _address_space():
        found.append(f"ulimit -v allows it {_gib(limit)} of addresses")
    return found


def _address_space() -> int | None:
    """The limit of this process's address space in bytes; None without one."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
