"""The compiled extension, and what builds it: compiler, cmake, ninja, pybind11, nvcc."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from cyclegan_fast.diagnosis.findings import Finding, import_fault, is_there, version_of
from cyclegan_fast.errors import one_line
from cyclegan_fast.logs import suppressed_output

BUILD = "pip install -e ."
BUILD_TOOLS = ("cmake", "ninja", "pybind11")
_NEEDS_TORCH = "it needs torch"
_PROGRAM = "#include <vector>\nint main() { return int(std::vector<int>(0).size()); }\n"
_PACKAGE = Path(__file__).resolve().parent.parent


def extension(info: dict[str, Any], reason: str) -> list[Finding]:
    """Whether the extension is here and loads, and what its kernels run on; takes what `build_info` returned."""
    if info:
        facts = f"{info['version']}, {info['compiler']}, CPU kernels use {info['isa']}"
        return [Finding("extension", True, facts), _cuda_kernels(info)]
    if reason.startswith("CYCLEGAN_FAST_"):  # a switch of a value that there is not
        return [Finding("extension", False, reason, f"unset {reason.split()[0]}", "training")]
    if (_PACKAGE / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}").is_file() and reason != _NEEDS_TORCH:
        return [Finding("extension", False, reason, _rebuild(), "broken")]
    if others := sorted(path.name for path in _PACKAGE.glob("_C.*.so")):
        reason = f"{reason}; there is one for another Python: {', '.join(others)}"
    return [Finding("extension", False, reason, BUILD, "extension")]


def build_info() -> tuple[dict[str, Any], str]:
    """(facts about the extension, why it is missing): one of them is empty."""
    try:
        import torch  # noqa: F401 - whose libraries the extension links against
    except Exception:  # reported as torch's own fault
        return {}, _NEEDS_TORCH
    if is_there("cyclegan_fast._C") and (fault := import_fault("cyclegan_fast._C")):
        return {}, f"cyclegan_fast._C does not load ({fault})"  # before this process is brought down by it
    try:
        with suppressed_output("cyclegan_fast.ops.extension"):
            from cyclegan_fast import ops
    except Exception as error:  # a UserError, of a switch or of what CYCLEGAN_FAST_REQUIRE_EXT forbids, too
        return {}, one_line(error)
    return ops.build_info(), ops.extension_error() or ""


def compiler() -> Finding:
    """The C++ compiler, of CXX or g++, which has to compile and link a program."""
    try:
        words = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    except ValueError as error:
        message = f"CXX={os.environ['CXX']} is no command ({one_line(error)})"
        return Finding("compiler", False, message, "unset CXX", "broken")
    path = shutil.which(words[0])
    if path is None:
        message = f"no {words[0]}: neither the extension nor a .pt2 engine can be built here"
        return Finding("compiler", False, message, "sudo apt-get install g++")
    version = f"{words[0]} {_output([path, '-dumpfullversion'])}".strip()
    with tempfile.TemporaryDirectory() as folder:
        command = [*words, "-x", "c++", "-", "-o", str(Path(folder) / "program")]
        try:
            done = subprocess.run(command, input=_PROGRAM, capture_output=True, text=True, timeout=60, check=False)
            fault = one_line(done.stderr) if done.returncode else ""
        except (OSError, subprocess.SubprocessError) as error:
            fault = one_line(error)
    if fault:
        message = f"{version} does not compile a program ({fault})"
        return Finding("compiler", False, message, "sudo apt-get install --reinstall g++ libc6-dev", "broken")
    return Finding("compiler", True, version)


def build_tool(name: str) -> Finding:
    """`pip install` brings its own; only a build without isolation needs it here."""
    if is_there(name):
        return Finding(name, True, version_of(name))
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


def nvcc() -> Finding:
    """The CUDA compiler, which only a GPU needs."""
    path = nvcc_path()
    if path is None:
        fix = "sudo apt-get install cuda-toolkit-13-0" if shutil.which("nvidia-smi") else None
        return Finding("nvcc", False, "absent: only a GPU needs it", fix)
    release = re.search(r"release (\d+\.\d+)", _output([str(path), "--version"]))
    if release is None:
        return Finding("nvcc", False, f"{path} does not run", "sudo apt-get install cuda-toolkit-13-0", "broken")
    return Finding("nvcc", True, f"CUDA {release[1]}")


def _cuda_kernels(info: dict[str, Any]) -> Finding:
    if info["cuda_archs"]:
        return Finding("CUDA kernels", True, f"CUDA {info['cuda']}, for {' '.join(info['cuda_archs'])}")
    if nvcc_path():
        return Finding("CUDA kernels", False, "not built, though there is an nvcc", BUILD)
    return Finding("CUDA kernels", False, "not built: there is no nvcc (a CPU needs none)")


def _rebuild() -> str:
    """The command that replaces a damaged extension."""
    in_checkout = (_PACKAGE.parent / "setup.py").is_file()
    return BUILD if in_checkout else "pip install --force-reinstall --no-deps cyclegan-fast"


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
