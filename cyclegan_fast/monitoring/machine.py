"""What a result was measured on: versions and hardware, and nothing that names a host, a user or a path."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from cyclegan_fast import ops
from cyclegan_fast.device import usable_cores

PACKAGES = ("numpy", "pillow", "safetensors", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorboard", "triton")


def machine_info() -> dict[str, Any]:
    """Describes this machine.

    Returns:
        ``os``, ``cpu`` (model name), ``cores`` (that this process may use), ``threads`` (torch's), ``memory_gib``,
        ``gpu`` (names), ``gpu_count``, ``gpu_memory_gib``, ``driver``, ``cuda`` (torch's), ``python``, ``torch``,
        ``extension`` (a dict, empty where it is missing) and ``packages`` (name: version). What is unknown is None.
    """
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "os": _operating_system(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "gpu": ", ".join(sorted({gpu.name for gpu in gpus})) or None,
        "gpu_count": len(gpus),
        "gpu_memory_gib": round(gpus[0].total_memory / 2**30, 1) if gpus else None,
        "driver": _driver() if gpus else None,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "extension": ops.build_info(),
        "packages": {name: found for name in PACKAGES if (found := package_version(name))},
    }


def package_version(name: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _operating_system() -> str:
    """Such as "Debian GNU/Linux 12 (bookworm), kernel 6.1, x86_64"; a custom kernel's name is left out."""
    name = platform.system()
    with contextlib.suppress(OSError):
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    kernel = re.match(r"\d+(\.\d+)?", platform.release())
    return f"{name}, kernel {kernel[0] if kernel else 'unknown'}, {platform.machine()}"


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _driver() -> str | None:
    """The NVIDIA driver's version, from nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        text = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        return text.split("\n")[0].strip() or None
    return None
