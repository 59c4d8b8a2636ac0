"""python -m cyclegan_fast.doctor: reports what is here, what is missing, and the one command that fixes it."""

from __future__ import annotations

import importlib.util
import json as json_format
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from cyclegan_fast.cli import EXIT_USER_ERROR, run_command
from cyclegan_fast.errors import UserError
from cyclegan_fast.logs import suppressed_output
from cyclegan_fast.version import __version__

MIN_TORCH = (2, 11)
TORCH = "torch>=2.11"
TESTED_TORCH = "2.15.0"  # the newest that the tests ran on: docs/toolchain.md
BUILD = "pip install -e ."
CORE = {
    "numpy": "numpy",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "rich": "rich",
    "yaml": "pyyaml",
}
EXTRAS = {  # module: (the extra that brings it, what it is for)
    "onnx": ("onnx", "export to ONNX"),
    "onnxscript": ("onnx", "export to ONNX"),
    "onnxruntime": ("onnx", "run ONNX engines"),
    "openvino": ("openvino", "run ONNX engines faster on Intel and AMD processors"),
    "tensorrt": ("tensorrt", "build and run .engine files on an NVIDIA GPU"),
    "tensorrt_rtx": ("tensorrt-rtx", "build .engine files without a GPU, and run them on RTX GPUs (no Hopper)"),
    "tensorboard": ("tensorboard", "event files for TensorBoard"),
    "tifffile": ("deep", "read and write TIFF of 16-bit colour, of float64, and of many channels"),
    "av": ("video", "translate videos"),
    "imagecodecs": ("deep", "read and write PNG of 16-bit colour"),
}
MARKS = {"option": "○", "caution": "!"}
BUILD_TOOLS = ("cmake", "ninja", "pybind11")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    ok: bool
    message: str
    fix: str | None = None
    needed_for: str = "option"  # "training", "extension", "option" for what only adds something, "caution" for a doubt


def doctor(*, strict: bool = False, json: bool = False) -> int:
    """Reports what is here and what is missing, each with the one command that fixes it.

    For example:
        python -m cyclegan_fast.doctor --strict
        python -m cyclegan_fast.doctor --json      # for a bug report

    Exits with 0 if training can run here, if need be without the compiled extension, and with 2 if it cannot.

    Args:
        strict: Exit with 2 if the compiled extension is missing, too.
        json: Print the findings as JSON. It names no host, and the home folder is ~.

    Returns:
        Exit status.
    """
    groups = examine()
    missing = {finding.needed_for for findings in groups.values() for finding in findings if not finding.ok}
    print(_as_json(groups, missing) if json else _as_text(groups, missing))
    return EXIT_USER_ERROR if "training" in missing or (strict and "extension" in missing) else 0


def examine() -> dict[str, list[Finding]]:
    """Everything that was found, by title."""
    return {
        "To train and translate": [_python(), _torch(), *(_core(*item) for item in CORE.items())],
        "The compiled extension": [*_extension(), _compiler(), *(_build_tool(name) for name in BUILD_TOOLS), _nvcc()],
        "The GPU": _gpu(),
        "Extras": [
            *(_extra(module, _package_of(module), *extra) for module, extra in EXTRAS.items()),
            _dali(),
        ],
    }


def _as_text(groups: dict[str, list[Finding]], missing: set[str]) -> str:
    lines = [line for title, findings in groups.items() for line in (title, *map(_line, findings))]
    return "\n".join([*lines, _verdict(missing)])


def _as_json(groups: dict[str, list[Finding]], missing: set[str]) -> str:
    report = {
        "cyclegan_fast": __version__,
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "verdict": _verdict(missing),
        "findings": {title: [asdict(finding) for finding in findings] for title, findings in groups.items()},
    }
    text, home = json_format.dumps(report, indent=2), os.environ.get("HOME", "").rstrip("/")
    return text.replace(home, "~") if home else text


def _line(finding: Finding) -> str:
    mark = "✓" if finding.ok else MARKS.get(finding.needed_for, "✗")
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        mark = {"✓": "+", "✗": "x", "○": "-"}.get(mark, mark)
    fix = f"\n{'':17}fix: {finding.fix}" if finding.fix else ""
    return f"  {mark} {finding.name:<12} {finding.message}{fix}"


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
    version, ok = platform.python_version(), sys.version_info >= (3, 11)
    if ok:
        return Finding("python", True, version)
    return Finding("python", False, f"{version}, but 3.11 or newer is needed", "python3.11 -m venv .venv", "training")


def _torch() -> Finding:
    fix = f'pip install "{TORCH}"'
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", False, f"does not load ({error})", fix, "training")
    message = f"{torch.__version__}, {_torch_cuda()}"
    release = _release(torch.__version__)
    if release < MIN_TORCH:
        return Finding("torch", False, f"{message}, but {TORCH} is needed", fix, "training")
    if release > _release(TESTED_TORCH):
        return Finding("torch", False, f"{message}: newer than {TESTED_TORCH}, the newest tested", needed_for="caution")
    return Finding("torch", True, message)


def _release(version: str) -> tuple[int, ...]:
    """(2, 13) of "2.13.0+cpu"."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _torch_cuda() -> str:
    import torch

    return f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU only"


def _core(module: str, package: str) -> Finding:
    if _here(module):
        return Finding(package, True, _version(package))
    return Finding(package, False, "missing", f"pip install {package}", "training")


def _extra(module: str, package: str, extra: str, purpose: str) -> Finding:
    if _here(module):
        return Finding(package, True, f"{_version(package)}: {purpose}")
    return Finding(package, False, f"absent: {purpose}", f"pip install 'cyclegan-fast[{extra}]'")


def _package_of(module: str) -> str:
    """What pip calls it."""
    return "tensorrt-rtx-cu13" if module == "tensorrt_rtx" else module


def _dali() -> Finding:
    """The package that goes with the CUDA of this torch."""
    try:
        from torch.version import cuda
    except (ImportError, OSError):
        cuda = None
    number = "120" if (cuda or "13").startswith("12.") else "130"
    extra = "dali-cuda120" if number == "120" else "dali"
    return _extra("nvidia.dali", f"nvidia-dali-cuda{number}", extra, "decode images on the GPU")


def build_info() -> tuple[dict[str, Any], str | None]:
    """(facts about the extension, why it is missing): one of them is empty."""
    try:
        with suppressed_output("cyclegan_fast.ops.extension"):
            from cyclegan_fast import ops
    except (ImportError, OSError, UserError) as error:
        return {}, " ".join(str(error).split())
    return ops.build_info(), ops.extension_error()


def _extension() -> list[Finding]:
    info, error = build_info()
    if not info:
        return [Finding("extension", False, error or "not built", BUILD, "extension")]
    facts = f"{info['version']}, {info['compiler']}, CPU kernels use {info['isa']}"
    return [Finding("extension", True, facts), _cuda_kernels(info)]


def _cuda_kernels(info: dict[str, Any]) -> Finding:
    if info["cuda_archs"]:
        return Finding("CUDA kernels", True, f"CUDA {info['cuda']}, for {' '.join(info['cuda_archs'])}")
    if nvcc_path():
        return Finding("CUDA kernels", False, "not built, though there is an nvcc", BUILD)
    return Finding("CUDA kernels", False, "not built: there is no nvcc (a CPU needs none)")


def _compiler() -> Finding:
    name = shlex.split(os.environ.get("CXX", "g++"))[0]
    if path := shutil.which(name):
        version = subprocess.run([path, "-dumpfullversion"], capture_output=True, text=True, check=False).stdout.strip()
        return Finding("compiler", True, f"{name} {version}".strip())
    return Finding("compiler", False, f"no {name}: the extension cannot be built here", "sudo apt-get install g++")


def _build_tool(name: str) -> Finding:
    """`pip install` brings its own; only a build without isolation needs it here."""
    if _here(name):
        return Finding(name, True, _version(name))
    if path := shutil.which(name):
        return Finding(name, True, path)
    return Finding(name, False, "absent: only --no-build-isolation needs it", f"pip install {name}")


def nvcc_path() -> Path | None:
    """The CUDA compiler that CMakeLists.txt finds: of CUDA_HOME, on PATH or in /usr/local/cuda."""
    folders = [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    if home := os.environ.get("CUDA_HOME"):
        folders.insert(0, str(Path(home) / "bin"))
    found = shutil.which("nvcc", path=os.pathsep.join(folders))
    return Path(found) if found else None


def _nvcc() -> Finding:
    path = nvcc_path()
    if path is None:
        fix = "sudo apt-get install cuda-toolkit-13-0" if shutil.which("nvidia-smi") else None
        return Finding("nvcc", False, "absent: only a GPU needs it", fix)
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
        fix = f'pip install --force-reinstall "{TORCH}"'
        return Finding("GPU", False, "there is an NVIDIA driver, but this torch is built for the CPU only", fix)
    return Finding("GPU", False, f"torch for CUDA {torch_cuda} finds no device", "nvidia-smi")


def _one_gpu(properties: Any, archs: Sequence[str]) -> Finding:
    capability = (properties.major, properties.minor)
    number = f"{capability[0]}.{capability[1]}"
    message = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability {number}"
    if covers(archs, capability):
        return Finding("GPU", True, message)
    fix = f'CYCLEGAN_FAST_CUDA_ARCHS="{number.replace(".", "")}" {BUILD}'
    return Finding("GPU", False, f"{message}: the extension has no kernels for it", fix, "extension")


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


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process."""
    run_command(doctor, words)


if __name__ == "__main__":
    main()
