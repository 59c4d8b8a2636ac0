"""Python, torch and the packages: what is needed, what only adds something, and whether each can be imported."""

from __future__ import annotations

import platform
import re
import sys
from typing import NamedTuple

from cyclegan_fast.diagnosis.findings import Finding, import_fault, is_there, version_of
from cyclegan_fast.errors import one_line

MIN_TORCH = (2, 11)
TORCH = "torch>=2.11"
TESTED_TORCH = "2.15.0"  # the newest that the tests ran on: docs/toolchain.md
CORE = {
    "numpy": "numpy",
    "PIL.Image": "pillow",
    "safetensors": "safetensors",
    "rich": "rich",
    "yaml": "pyyaml",
}


class Extra(NamedTuple):
    """What an optional package is for."""

    extra: str
    """The extra that brings it."""
    purpose: str
    min_version: str
    """As in pyproject.toml."""
    resolves_names: bool = False
    """Its import asks the network for names of hosts, so that it is not tried."""


EXTRAS = {
    "onnx": Extra("onnx", "export to ONNX", "1.17"),
    "onnxscript": Extra("onnx", "export to ONNX", "0.5"),
    "onnxruntime": Extra("onnx", "run ONNX engines", "1.20"),
    "openvino": Extra("openvino", "run ONNX engines faster on Intel and AMD processors", "2025.0"),
    "tensorrt": Extra("tensorrt", "build and run .engine files on an NVIDIA GPU", "10.16"),
    "tensorrt_rtx": Extra(
        "tensorrt-rtx", "build .engine files without a GPU, and run them on RTX GPUs (no Hopper)", "1.7"
    ),
    "tensorboard": Extra("tensorboard", "event files for TensorBoard", "2.16"),
    "tifffile": Extra("deep", "read and write TIFF of 16-bit colour, of float64, and of many channels", "2024.8.10"),
    "av": Extra("video", "translate videos", "16.1"),
    "fastapi": Extra("serve", "serve engines over HTTP", "0.115"),
    "uvicorn": Extra("serve", "serve engines over HTTP", "0.30"),
    "imagecodecs": Extra("deep", "read and write PNG of 16-bit colour", "2024.9.22"),
    "ray": Extra("ray", "share the translation of many images among machines", "2.51", resolves_names=True),
}
_DALI = Extra("dali", "decode images on the GPU", "2.4")


def python() -> Finding:
    """The interpreter."""
    version, ok = platform.python_version(), sys.version_info >= (3, 11)
    if not ok:
        message = f"{version}, but 3.11 or newer is needed"
        return Finding("python", False, message, "python3.11 -m venv .venv", "training")
    if sys.maxsize < 2**32:
        return Finding("python", False, f"{version} of 32 bits: torch has 64", "python3.11 -m venv .venv", "training")
    return Finding("python", True, version)


def torch() -> Finding:
    """Whether torch is here, loads, and has a version that is known to work."""
    fix = f'pip install "{TORCH}"'
    try:
        import torch
    except Exception as error:  # ImportError, OSError of a library, whatever a damaged file raises
        return Finding("torch", False, f"does not load ({one_line(error)})", fix, "training")
    message = f"{torch.__version__}, {_torch_cuda(torch.version.cuda)}"
    release = numbers(torch.__version__)[:2]
    if release < MIN_TORCH:
        return Finding("torch", False, f"{message}, but {TORCH} is needed", fix, "training")
    if release > numbers(TESTED_TORCH)[:2]:
        return Finding("torch", False, f"{message}: newer than {TESTED_TORCH}, the newest tested", needed_for="caution")
    return Finding("torch", True, message)


def core(module: str, package: str) -> Finding:
    """A package without which nothing runs."""
    if not is_there(module):
        return Finding(package, False, "missing", f"pip install {package}", "training")
    if fault := import_fault(module):
        fix = f"pip install --force-reinstall --no-deps {package}"
        return Finding(package, False, f"{version_of(package)} does not load ({fault})", fix, "training")
    return Finding(package, True, version_of(package))


def extra(module: str, package: str, about: Extra) -> Finding:
    """A package that only adds something; broken, or too old, is worse than absent."""
    fix = f"pip install 'cyclegan-fast[{about.extra}]'"
    if not is_there(module):
        return Finding(package, False, f"absent: {about.purpose}", fix)
    version = version_of(package)
    if numbers(version) and numbers(version) < numbers(about.min_version):
        return Finding(package, False, f"{version}, but {about.min_version} or newer is needed", fix, "broken")
    if about.resolves_names:
        return Finding(package, True, f"{version}, not imported: {about.purpose}")
    if fault := import_fault(module):
        again = f"pip install --force-reinstall --no-deps {package}"
        return Finding(package, False, f"{version} does not load ({fault})", again, "broken")
    return Finding(package, True, f"{version}: {about.purpose}")


def extras() -> list[Finding]:
    """All optional packages."""
    return [*(extra(module, package_of(module), about) for module, about in EXTRAS.items()), _dali()]


def package_of(module: str) -> str:
    """What pip calls the package of a module."""
    return "tensorrt-rtx-cu13" if module == "tensorrt_rtx" else module


def numbers(version: str) -> tuple[int, ...]:
    """(2, 13, 0) of "2.13.0+cpu"; empty of what is no version."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))


def _torch_cuda(cuda: str | None) -> str:
    return f"for CUDA {cuda}" if cuda else "for the CPU only"


def _dali() -> Finding:
    """The package that goes with the CUDA of this torch."""
    try:
        from torch.version import cuda
    except Exception:  # reported as torch's own fault
        cuda = None
    number = "120" if (cuda or "13").startswith("12.") else "130"
    about = _DALI._replace(extra="dali-cuda120") if number == "120" else _DALI
    return extra("nvidia.dali", f"nvidia-dali-cuda{number}", about)
