"""Builds the kernels with CMake, without torch, and runs their C++ tests."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("ctest")), reason="cmake is missing")
def test_kernels_with_cmake(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout + done.stderr

    # One target of the CUDA kernels: installing the package compiles all of them.
    configured = run("cmake", "-S", str(ROOT), "-B", str(tmp_path), "-DCUDA_ARCHITECTURES=90a-real")
    built = run("cmake", "--build", str(tmp_path), "-j", "2")
    output = run("ctest", "--test-dir", str(tmp_path), "--output-on-failure", "-j", "2")
    assert "cuda_emulated" in output and "cpu_sanitized" in output
    if "no nvcc" not in configured:
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", built)
        assert len(spills) > 25, "the compiler's report on registers is missing"
        assert set(spills) == {("0", "0")}, "a kernel spills registers: see python -m benchmarks.registers"
