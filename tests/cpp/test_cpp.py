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


@pytest.mark.slow
def test_a_kernel_that_spills_registers_does_not_compile(built: Path, tmp_path: Path) -> None:
    commands = json.loads((built / "compile_commands.json").read_text())
    compiled = [entry for entry in commands if entry["file"].endswith("losses.cu")]
    if not compiled:
        pytest.skip("no nvcc")
    words = [word for word in shlex.split(compiled[0]["command"]) if not word.startswith("--generate-code")]
    words[words.index("-o") + 1] = str(tmp_path / "losses.o")
    starved = [*words, "-gencode=arch=compute_90a,code=sm_90a", "-maxrregcount=16"]
    done = subprocess.run(starved, cwd=built, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "spill" in (done.stdout + done.stderr).lower()
