"""The machine around Python: memory, shared memory, disk, open files, and the package's environment variables."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cyclegan_fast.diagnosis.findings import Finding
from cyclegan_fast.errors import did_you_mean, one_line

SHARED_MEMORY = "/dev/shm"
CHECKPOINT_BYTES = 350 * 10**6  # of the paper's networks with their moments: 28.3 million weights, three times 4 bytes
_MIN_SHARED, _MIN_MEMORY, _MIN_FILES = 256 * 2**20, 2**30, 512

SWITCHES = {  # read at run time: (values, the default first; what it chooses)
    "CYCLEGAN_FAST_CONV": (("winograd", "direct", "torch"), "convolutions on the CPU"),
    "CYCLEGAN_FAST_NARROW_CONV": (("off", "on"), "our kernels for layers of few channels on CUDA"),
    "CYCLEGAN_FAST_REQUIRE_EXT": (("0", "1"), "whether a missing extension is an error"),
    "CYCLEGAN_FAST_ISA": (("", "plain", "avx2", "avx512", "avx512_bf16"), "the newest instructions that are used"),
}
BUILD_VARIABLES = {  # read by setup.py and `make`
    "CYCLEGAN_FAST_CUDA",
    "CYCLEGAN_FAST_CUDA_ARCHS",
    "CYCLEGAN_FAST_CUDART",
    "CYCLEGAN_FAST_NO_SPILLS",
}
_SHOWN = ("CYCLEGAN_FAST_CONV", "CYCLEGAN_FAST_NARROW_CONV")  # always, for they change the results' last bits


def machine() -> list[Finding]:
    """What a run uses of the machine."""
    return [*filter(None, (_memory(), _shared_memory(), _open_files())), _disk(Path.cwd())]


def switches() -> list[Finding]:
    """Each environment variable of the package that is set, and those of the convolutions in any case."""
    others = (name for name in os.environ if name.startswith("CYCLEGAN_FAST_") and name not in _SHOWN)
    return [_switch(name) for name in (*_SHOWN, *sorted(others))]


def _switch(name: str) -> Finding:
    short, value = name.removeprefix("CYCLEGAN_FAST_"), os.environ.get(name)
    if name in BUILD_VARIABLES:
        return Finding(short, True, f"{value} (of the build)")
    if name not in SWITCHES:
        hint = did_you_mean(name, [*SWITCHES, *BUILD_VARIABLES])
        return Finding(short, False, f"nothing reads {name}{hint}", f"unset {name}", "caution")
    values, purpose = SWITCHES[name]
    if value is None:
        return Finding(short, True, f"{values[0]}: {purpose}")
    if value not in values:
        message = f"{value!r} is none of {', '.join(filter(None, values))}"
        return Finding(short, False, message, f"unset {name}", "training" if name in _SHOWN else "caution")
    return Finding(short, True, f"{value} (set): {purpose}")


def _memory() -> Finding | None:
    """Free memory, within the container's limit; None where the system does not tell."""
    try:
        import torch

        from cyclegan_fast.device import free_memory, usable_cores
    except Exception:  # reported as torch's own fault
        return None
    free, cores = free_memory(torch.device("cpu")), usable_cores()
    if not free:
        return None
    message = f"{_gib(free)} free, {cores} core{'s' * (cores > 1)}"
    if free < _MIN_MEMORY:
        message += ": little for training; smaller networks or images (--ngf, --crop-size) take less"
        return Finding("memory", False, message, needed_for="caution")
    return Finding("memory", True, message)


def _shared_memory() -> Finding | None:
    """Where the processes of --loader torch hand over batches; None on systems without it."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):
        return None
    total, free = (blocks * status.f_frsize for blocks in (status.f_blocks, status.f_bavail))
    message = f"{_gib(free)} free of {_gib(total)} in {SHARED_MEMORY}"
    if free < _MIN_SHARED:
        message += ": little for the worker processes of --loader torch"
        fix = "docker run --shm-size 1g" if total < _MIN_SHARED else f"df -h {SHARED_MEMORY}"
        return Finding("shared memory", False, message, fix, "caution")
    return Finding("shared memory", True, message)


def _open_files() -> Finding | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _MIN_FILES:
        return Finding("open files", True, "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,} at a time")
    most = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    message = f"{soft:,} at a time: worker processes hold one for each batch that they hand over"
    return Finding("open files", False, message, f"ulimit -n {most}", "caution")


def _disk(folder: Path) -> Finding:
    """The disk of this folder, into which runs/ is written."""
    other = "python -m cyclegan_fast.train --out FOLDER"
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", False, f"this folder cannot be examined ({one_line(error)})", other, "caution")
    message = f"{_gib(free)} free in this folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("disk", False, f"{message}, which you may not write to", other, "caution")
    if free < CHECKPOINT_BYTES:
        message += f": a checkpoint of the paper's networks takes {CHECKPOINT_BYTES / 2**30:.2f} GiB"
        return Finding("disk", False, message, other, "broken")
    if free < 4 * CHECKPOINT_BYTES:
        return Finding("disk", False, f"{message}: three checkpoints and the one being written", other, "caution")
    return Finding("disk", True, message)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**28 else f"{size / 2**20:.0f} MiB"
