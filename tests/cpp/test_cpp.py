"""Builds the C++ tests with CMake, beside the extension and from its objects, and runs them."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from setup import build_folder, find_program

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built() -> Path:
    cmake, folder = find_program("cmake"), build_folder()
    settings = ["-DCYCLEGAN_FAST_TESTS=ON", "-DCYCLEGAN_FAST_NO_SPILLS=ON"]
    run(cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={find_program('ninja')}", "-S", ROOT, "-B", folder, *settings)
    run(cmake, "--build", folder, "--target", "cpp_tests", "--parallel", os.environ.get("MAX_JOBS", "2"))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kernels(built: Path) -> None:
    output = run(find_program("ctest"), "--test-dir", built, "--output-on-failure", "--parallel", "2")
    assert "cuda_emulated" in output and "cpu_sanitized" in output


# 64 values that are all alive at the barrier do not fit into 32 registers.
SPILLING = """
__global__ void spilling(float* x) {
  float values[64];
  for (int i = 0; i < 64; ++i) values[i] = x[64 * threadIdx.x + i];
  __syncthreads();
  for (int i = 0; i < 64; ++i) x[64 * threadIdx.x + i] = values[63 - i] * values[(i * 7 + 1) % 64];
}
"""


@pytest.mark.slow
def test_a_kernel_that_spills_registers_does_not_compile(built: Path, tmp_path: Path) -> None:
    commands = json.loads((built / "compile_commands.json").read_text())
    commands = [entry for entry in commands if entry["file"].endswith("/losses.cu")]
    if not commands:
        pytest.skip("no nvcc")
    (tmp_path / "spilling.cu").write_text(SPILLING)
    words = [word for word in shlex.split(commands[0]["command"]) if not word.startswith("--generate-code")]
    words[words.index("-o") + 1] = str(tmp_path / "spilling.o")
    words[words.index(commands[0]["file"])] = str(tmp_path / "spilling.cu")

    def compile_with(registers: int) -> subprocess.CompletedProcess[str]:
        flags = ["-gencode=arch=compute_90a,code=sm_90a", f"-maxrregcount={registers}"]
        return subprocess.run([*words, *flags], cwd=built, capture_output=True, text=True, check=False)

    assert compile_with(128).returncode == 0
    starved = compile_with(32)
    assert starved.returncode != 0 and "spill" in (starved.stdout + starved.stderr).lower(), starved
