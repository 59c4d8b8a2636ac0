"""A CUDA device for fake tensors, under a torch without CUDA. To be imported before torch, in a process of its own.

Fake tensors have shapes, types, layouts and devices but no values, so that a whole step runs in seconds and every
operator that it issues can be watched. What needs a value on the host, a synchronisation, is an error. `device.py`
makes tensors and networks.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")
BUILD = SOURCE.parents[2] / "build" / "fake_cuda"


def _load() -> None:
    """Builds guard.cpp once for each torch, and registers the device."""
    if "torch" in sys.modules:
        raise ImportError("tests.fake_cuda must be imported before torch, which asks for CUDA once")
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    torch = Path(spec.origin).parent
    key = hashlib.sha256(SOURCE.read_bytes() + (torch / "version.py").read_bytes()).hexdigest()[:16]
    library = BUILD / f"{key}.so"
    if not library.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        partial = library.with_suffix(".new")
        command = ["g++", "-shared", "-fPIC", "-O1", "-std=c++20", "-isystem", torch / "include", SOURCE]
        subprocess.run([*command, "-o", partial, "-L", torch / "lib", "-ltorch_cpu", "-lc10"], check=True)
        partial.replace(library)
    ctypes.CDLL(str(torch / "lib" / "libtorch_global_deps.so"), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(torch / "lib" / "libtorch_cpu.so"))
    ctypes.CDLL(str(library)).register_fake_cuda()


_load()
