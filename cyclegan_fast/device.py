"""What this process may use: a device by its name, the cores of the machine, and free memory."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import torch

from cyclegan_fast.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Turns ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into an existing device.

    Raises:
        UserError: The name is no device, or CUDA is asked for and missing.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device must be auto, cpu, cuda or cuda:<index>, got '{name}'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no device {name}: torch sees {torch.cuda.device_count()} CUDA devices; use cpu")
    return device


def processes_of_host() -> int:
    """Returns how many processes share this host's cores and memory for one training, as torchrun says."""
    count = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(count)) if count.isdecimal() else 1


def usable_cores() -> int:
    """Returns how many processor cores this process may use: those it may run on, within its container's limit.

    The processes of one training share them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cores_of_container(Path("/sys/fs/cgroup"))
    cores = cores if limit is None else max(1, min(cores, math.ceil(limit)))
    return max(1, cores // processes_of_host())


def cores_of_container(cgroup: Path) -> float | None:
    """Returns the CPU limit of this control group (version 2, then 1) in cores; None where there is no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None  # -1 is no limit, as is "max"
    except (ValueError, ZeroDivisionError):
        return None


def free_memory(device: torch.device) -> int:
    """Returns the bytes still free on a device; for the CPU those of the host, or of the container. 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        if (meminfo := Path("/proc/meminfo")).exists():
            found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
            of_host = int(found[1]) * 1024 if found else 0
        else:
            of_host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):  # Windows, macOS
        return 0
    of_container = free_in_container(Path("/sys/fs/cgroup"))
    return of_host if of_container is None else max(0, min(of_host, of_container))


def free_in_container(cgroup: Path) -> int | None:
    """Returns the bytes left under the limit of this control group (version 2, then 1); None without a limit."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            max_bytes, used_bytes = int((cgroup / limit).read_text()), int((cgroup / used).read_text())
            statistics = (cgroup / used).with_name("memory.stat").read_text()
        except (OSError, ValueError):  # not this version, or the limit is "max"
            continue
        found = re.search(rf"^{cache} (\d+)$", statistics, re.MULTILINE)
        reclaimable = int(found[1]) if found else 0  # pages of files, dropped when memory is short
        return max_bytes - used_bytes + reclaimable
    return None
