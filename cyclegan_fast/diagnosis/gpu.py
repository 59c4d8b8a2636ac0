"""The GPU: whether torch sees it, whether its driver serves this CUDA, whether the extension has kernels for it."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Sequence
from typing import Any

from cyclegan_fast.diagnosis.build import BUILD
from cyclegan_fast.diagnosis.findings import Finding
from cyclegan_fast.diagnosis.packages import TORCH, numbers

_DRIVER = "sudo apt-get install --only-upgrade cuda-drivers"


def gpu(info: dict[str, Any]) -> list[Finding]:
    """Each GPU that torch sees, or why it sees none; takes the extension's `build_info`."""
    try:
        import torch
    except Exception:  # reported as torch's own fault
        return [Finding("GPU", False, "unknown without torch")]
    driver = driver_fault(driver_cuda(), {"torch": torch.version.cuda, "the extension": info.get("cuda")})
    if not torch.cuda.is_available():
        return [driver or _no_gpu(torch.version.cuda)]
    archs = info.get("cuda_archs", [])
    found = [_one_gpu(torch.cuda.get_device_properties(i), archs) for i in range(torch.cuda.device_count())]
    return [*found, *([driver] if driver else [])]


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the installed driver serves, (12, 4) for example; None without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
        version = ctypes.c_int(0)
        failed = library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed or version.value <= 0 else (version.value // 1000, version.value % 1000 // 10)


def driver_fault(driver: tuple[int, int] | None, built_for: dict[str, str | None]) -> Finding | None:
    """The finding about a driver that is older than a CUDA runtime in use; None where it serves all.

    Args:
        driver: The newest CUDA that it serves.
        built_for: The CUDA version of each part that has one. A driver serves every minor version of its own major.
    """
    if driver is None:
        return None
    late = [f"{part} for CUDA {cuda}" for part, cuda in built_for.items() if cuda and numbers(cuda)[:1] > driver[:1]]
    if not late:
        return None
    message = f"serves CUDA {driver[0]}.{driver[1]} at most, too old for {' and '.join(late)}"
    return Finding("driver", False, message, _DRIVER, "broken")


def covers(archs: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether kernels for `archs` run on a GPU of this compute capability.

    Machine code runs on its own major version from its minor on, with an "a" on that very one only; PTX runs on
    everything newer.
    """
    for arch in archs:
        name = arch.removesuffix("+PTX")
        built = (int(name.rstrip("a")[:-1]), int(name.rstrip("a")[-1]))
        same_major = not name.endswith("a") and built[0] == capability[0] and built <= capability
        if built == capability or same_major or (arch.endswith("+PTX") and built <= capability):
            return True
    return False


def _no_gpu(torch_cuda: str | None) -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", False, "none with an NVIDIA driver: everything runs on the CPU")
    if torch_cuda is None:
        fix = f'pip install --force-reinstall "{TORCH}"'
        return Finding("GPU", False, "there is an NVIDIA driver, but this torch is built for the CPU only", fix)
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        hidden = f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} leaves torch no device"
        return Finding("GPU", False, hidden, "unset CUDA_VISIBLE_DEVICES", "caution")
    return Finding("GPU", False, f"torch for CUDA {torch_cuda} finds no device", "nvidia-smi", "broken")


def _one_gpu(properties: Any, archs: Sequence[str]) -> Finding:
    capability = (properties.major, properties.minor)
    number = f"{capability[0]}.{capability[1]}"
    message = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability {number}"
    if covers(archs, capability):
        return Finding("GPU", True, message)
    fix = f'CYCLEGAN_FAST_CUDA_ARCHS="{number.replace(".", "")}" {BUILD}'
    return Finding("GPU", False, f"{message}: the extension has no kernels for it", fix, "extension")
