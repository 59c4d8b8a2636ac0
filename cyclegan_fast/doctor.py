"""python -m cyclegan_fast.doctor: says what is here, what is missing, and the one command that mends it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cyclegan_fast.cli import EXIT_USER_ERROR, with_errors
from cyclegan_fast.errors import UserError

TORCH = "torch>=2.11,<2.14"
BUILD = "pip install -e . --no-build-isolation --force-reinstall --no-deps"
CORE = {
    "numpy": "numpy",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "tyro": "tyro",
    "rich": "rich",
    "yaml": "pyyaml",
}
EXTRAS = {  # module: (package, what it is for)
    "onnx": ("onnx", "export to ONNX"),
    "onnxscript": ("onnxscript", "export to ONNX"),
    "onnxruntime": ("onnxruntime", "run ONNX engines"),
    "openvino": ("openvino", "run ONNX engines faster on Intel and AMD processors"),
    "tensorrt": ("tensorrt", "build and run .engine files on an NVIDIA GPU"),
    "tensorboard": ("tensorboard", "event files for TensorBoard"),
    "tifffile": ("tifffile", "read and write TIFF of 16-bit colour, of float64, and of many channels"),
    "av": ("av", "translate videos"),
    "imagecodecs": ("imagecodecs", "read and write PNG of 16-bit colour"),
}
DESCRIPTION = """Says what is here and what is missing, each with the one command that mends it.

Example: python -m cyclegan_fast.doctor --strict

Exits with 0 if training can run here, if need be without the compiled extension, and with 2 if it cannot."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    fine: bool
    told: str
    mend: str | None = None
    needed_for: str = "option"  # "training", "extension", or "option" for what only adds something


def main(words: Sequence[str] | None = None) -> int:
    """Prints the findings and returns the exit status."""
    # argparse and not tyro: what must run when packages are missing may need none of them.
    parser = argparse.ArgumentParser(
        prog="python -m cyclegan_fast.doctor",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--strict", action="store_true", help="exit with 2 if the compiled extension is missing, too")
    strict = parser.parse_args(words).strict
    groups = examine()
    for title, findings in groups.items():
        print(title)
        for finding in findings:
            print(_line(finding))
    missing = {finding.needed_for for findings in groups.values() for finding in findings if not finding.fine}
    print(_verdict(missing))
    return EXIT_USER_ERROR if "training" in missing or (strict and "extension" in missing) else 0


def examine() -> dict[str, list[Finding]]:
    """Everything that was found, by title."""
    return {
        "To train and translate": [_python(), _torch(), *(_core(*item) for item in CORE.items())],
        "The compiled extension": [*_extension(), _compiler(), _ninja(), _pybind11(), _nvcc()],
        "The GPU": _gpu(),
        "Extras": [*(_extra(module, *extra) for module, extra in EXTRAS.items()), _dali()],
    }


def _line(finding: Finding) -> str:
    mark = "✓" if finding.fine else ("✗" if finding.needed_for != "option" else "○")
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        mark = {"✓": "+", "✗": "x", "○": "-"}[mark]
    return f"  {mark} {finding.name:<12} {finding.told}" + (f"\n{'':17}mend: {finding.mend}" if finding.mend else "")


def _verdict(missing: set[str]) -> str:
    if "training" in missing:
        return "Training cannot run here yet."
    if "extension" in missing:
        return "Training runs here, but slower than it could: plain torch does the extension's work."
    return "Training runs here, with the compiled extension."


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # what it is a part of is missing, too
        return False


def _python() -> Finding:
    fine = sys.version_info >= (3, 11)
    mend = None if fine else "python3.11 -m venv .venv"
    return Finding(
        "python", fine, platform.python_version() + ("" if fine else ", 3.11 or newer is needed"), mend, "training"
    )


def _torch() -> Finding:
    mend = f'pip install "{TORCH}"'
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", False, f"does not load ({error})", mend, "training")
    release = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    if not (2, 11) <= release < (2, 14):
        return Finding("torch", False, f"{torch.__version__}, but {TORCH} is needed", mend, "training")
    return Finding("torch", True, f"{torch.__version__}, {_torch_cuda()}", needed_for="training")


def _torch_cuda() -> str:
    import torch

    return f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU only"


def _core(module: str, package: str) -> Finding:
    if _here(module):
        return Finding(package, True, _version(package), needed_for="training")
    return Finding(package, False, "missing", f"pip install {package}", "training")


def _extra(module: str, package: str, purpose: str) -> Finding:
    if _here(module):
        return Finding(package, True, f"{_version(package)}: {purpose}")
    return Finding(package, False, f"absent: {purpose}", f"pip install {package}")


def _dali() -> Finding:
    """The package that goes with the CUDA of this torch."""
    try:
        from torch.version import cuda
    except (ImportError, OSError):
        cuda = None
    package = "nvidia-dali-cuda120" if (cuda or "13").startswith("12.") else "nvidia-dali-cuda130"
    return _extra("nvidia.dali", package, "decode images on the GPU")


def build_info() -> tuple[dict[str, Any], str | None]:
    """(facts about the extension, why it is missing): one of them is empty."""
    try:
        with warnings.catch_warnings(action="ignore"):
            from cyclegan_fast import ops
    except (ImportError, OSError, UserError) as error:
        return {}, " ".join(str(error).split())
    return ops.build_info(), ops.extension_error()


def _extension() -> list[Finding]:
    info, error = build_info()
    if not info:
        return [Finding("extension", False, error or "not built", BUILD, "extension")]
    cpu = Finding(
        "extension",
        True,
        f"{info['version']}, {info['compiler']}, CPU kernels use {info['isa']}",
        needed_for="extension",
    )
    if info["cuda_archs"]:
        return [cpu, Finding("CUDA kernels", True, f"CUDA {info['cuda']}, for {' '.join(info['cuda_archs'])}")]
    if _nvcc_path():
        return [cpu, Finding("CUDA kernels", False, "not built, though there is an nvcc", BUILD)]
    return [cpu, Finding("CUDA kernels", False, "not built: there is no nvcc (a CPU needs none)")]


def _compiler() -> Finding:
    name = shlex.split(os.environ.get("CXX", "g++"))[0]
    if path := shutil.which(name):
        version = subprocess.run([path, "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
        return Finding("compiler", True, f"{name} {version}".strip())
    return Finding("compiler", False, f"no {name}: the extension cannot be built here", "sudo apt-get install g++")


def _ninja() -> Finding:
    if _here("ninja") or shutil.which("ninja"):
        return Finding("ninja", True, _version("ninja") if _here("ninja") else "on PATH")
    return Finding("ninja", False, "missing: the extension cannot be built here", "pip install ninja")


def _pybind11() -> Finding:
    if _here("pybind11"):
        return Finding("pybind11", True, _version("pybind11"))
    return Finding("pybind11", False, "missing: the extension cannot be built here", "pip install pybind11")


def _nvcc_path() -> Path | None:
    """The compiler of a whole toolkit, found as setup.py finds it."""
    on_path = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), on_path and str(Path(on_path).resolve().parents[1]), "/usr/local/cuda"]
    for home in homes:
        if home and (Path(home) / "bin/nvcc").is_file() and (Path(home) / "include/cuda_runtime.h").is_file():
            return Path(home) / "bin/nvcc"
    return None


def _nvcc() -> Finding:
    path = _nvcc_path()
    if path is None:
        mend = "sudo apt-get install cuda-toolkit-13-0" if shutil.which("nvidia-smi") else None
        return Finding("nvcc", False, "absent: only a GPU needs it", mend)
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+\.\d+)", text)
    return Finding("nvcc", release is not None, f"CUDA {release[1]}" if release else f"{path} does not run")


def _gpu() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError):
        return [Finding("GPU", False, "unknown without torch")]
    if not torch.cuda.is_available():
        return [_no_gpu(torch.version.cuda)]
    archs = build_info()[0].get("cuda_archs", [])
    return [_one_gpu(torch.cuda.get_device_properties(i), archs) for i in range(torch.cuda.device_count())]


def _no_gpu(torch_cuda: str | None) -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", False, "none with an NVIDIA driver: everything runs on the CPU")
    if torch_cuda is None:
        mend = f'pip install --force-reinstall "{TORCH}"'
        return Finding("GPU", False, "there is an NVIDIA driver, but this torch is built for the CPU only", mend)
    return Finding(
        "GPU", False, f"there is nvidia-smi, but torch for CUDA {torch_cuda} finds no device: nvidia-smi tells why"
    )


def _one_gpu(properties: Any, archs: Sequence[str]) -> Finding:
    capability = (properties.major, properties.minor)
    number = f"{capability[0]}.{capability[1]}"
    told = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability {number}"
    if covers(archs, capability):
        return Finding("GPU", True, told, needed_for="extension")
    mend = f'CYCLEGAN_FAST_CUDA_ARCHS="{number.replace(".", "")}" {BUILD}'
    return Finding("GPU", False, f"{told}: the extension has no kernels for it", mend, "extension")


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


if __name__ == "__main__":
    with_errors(main)
