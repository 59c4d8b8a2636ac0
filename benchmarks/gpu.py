"""make gpu: on a host with a GPU, build, prove and measure, then write docs/results/<gpu>.md and .json.

Needs no network and installs nothing: this Python must have torch >= 2.11, and nvcc, ninja, pybind11, pytest and
pytest-benchmark must be there. Everything is built into build/gpu. Without a GPU it names the tests that it leaves out
and exits with 0.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "gpu"
RESULTS = ROOT / "docs" / "results"
BUDGET_S = 530  # everything together
TESTS_S = 200  # of it


def main() -> int:
    try:
        import torch
    except ImportError:
        print("make gpu: this Python has no torch; name one that has: make gpu PYTHON=/path/to/python3")
        return 0
    if not torch.cuda.is_available():
        return without_gpu()
    began = time.monotonic()
    major, minor = torch.cuda.get_device_capability()
    build(f"{major}{minor}{'a' if major == 9 else ''}")
    print(f"== built in {time.monotonic() - began:.0f} s", flush=True)
    failed = run("tests", "-m", "pytest", "-m", "gpu", "-q", *on_the_build(), seconds=TESTS_S)
    print(f"== tests done after {time.monotonic() - began:.0f} s", flush=True)
    left = BUDGET_S - (time.monotonic() - began)
    words = ["-m", "benchmarks.measure", "--out", str(RESULTS), "--seconds", f"{0.8 * left:.0f}"]
    measured = run("benchmarks", *words, seconds=left)
    print(f"== all done after {time.monotonic() - began:.0f} s", flush=True)
    return failed or measured


def without_gpu() -> int:
    print("There is no CUDA device here. These tests need one and are left out:", flush=True)
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = [line for line in listed.stdout.splitlines() if "::" in line]
    print("\n".join(names) if names else listed.stdout + listed.stderr)
    return 0 if names else 1


def build(arch: str) -> None:
    """Compiles the package, with kernels for this card alone, into a folder of its own."""
    os.environ |= {"CYCLEGAN_FAST_CUDA_ARCHS": arch, "CYCLEGAN_FAST_REQUIRE_EXT": "1"}
    package = BUILD / "lib" / "cyclegan_fast"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "cyclegan_fast", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    setup = runpy.run_path(str(ROOT / "setup.py"))  # its build functions, without a setuptools command
    setup["compile_extension"](package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}", BUILD / "objects")


def on_the_build() -> list[str]:
    """Makes pytest import the package that was built, not the one in the checkout."""
    return ["-o", f"pythonpath={BUILD / 'lib'} ."]


def run(what: str, *words: str, seconds: float) -> int:
    """Runs this Python on the built package; returns its status and says what failed."""
    path = os.pathsep.join([str(BUILD / "lib"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "CYCLEGAN_FAST_REQUIRE_EXT": "1", "PYTHONSAFEPATH": "1"}
    try:
        status = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        print(f"{what} were not done after {seconds:.0f} s", file=sys.stderr)
        return 1
    if status:
        print(f"{what} ended with status {status}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
