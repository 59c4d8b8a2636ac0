"""Builds the mock runtime and the package for it, and runs a Python program on them; see __init__.py."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "mock_cuda"
# Tests of a GPU whose checks are of calls; those that compare results find equal ones, and their calls are checked.
STEP_TESTS = (
    "two_streams_change_no_bit",
    "two_streams_draw_the_same_random_numbers",
    "graph_equals_eager_bit_for_bit",
    "a_graph_with_the_reductions_of_ranks_changes_no_bit",
    "micro_batches_in_a_graph",
    "every_shape_of_batch_gets_its_own_graph",
    "too_many_shapes_are_an_error",
    "a_capture_that_fails_is_an_error",
    "evaluation_between_replays_changes_nothing",
    "weights_that_are_loaded_between_replays_are_read",
    "no_step_waits_for_the_device",
    "a_resumed_step_continues_inside_a_graph",
)
GPU_TESTS = [
    *(f"tests/training/test_step_gpu.py::test_{name}" for name in STEP_TESTS),
    "tests/training/test_layout.py::test_no_layout_copy_in_a_step_on_cuda",
    "tests/training/test_plan.py::test_a_trial_on_a_gpu_replays_the_graph_and_measures_its_memory",
    "tests/training/test_samples.py::test_sampling_beside_cuda_graphs_changes_no_bit",
]
PYTEST = ["-m", "pytest", "-q", "-p", "tests.mock_cuda.plugin", "-o", f"pythonpath={BUILD / 'lib'} ."]
# torch calls what is named here while it is imported.
ENTRY_POINT = "[torch.backends]\nmock_cuda = tests.mock_cuda.operators:install\n"


def main() -> None:
    torch = torch_folder()
    runtime = build_runtime(torch)
    build_package()
    environment = os.environ | {
        "LD_PRELOAD": str(runtime),
        "LD_LIBRARY_PATH": _joined(runtime.parent, os.environ.get("LD_LIBRARY_PATH")),
        "PYTHONPATH": _joined(BUILD / "lib", ROOT, os.environ.get("PYTHONPATH")),
        "PYTHONSAFEPATH": "1",  # the built package, not the one in the current folder
        "CYCLEGAN_FAST_REQUIRE_EXT": "1",
        "CYCLEGAN_FAST_CUDART": "cudart",  # for what is built by what runs
        "OMP_NUM_THREADS": "1",
    }
    os.execve(
        sys.executable, [sys.executable, *(sys.argv[1:] or [*PYTEST, "tests/mock_cuda", *GPU_TESTS])], environment
    )


def torch_folder() -> Path:
    """The folder of this Python's torch, which must be a CUDA build."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("mock_cuda: this Python has no torch; name one that has: make mockgpu PYTHON=/path/to/python3")
    folder = Path(spec.origin).parent
    version = re.search(r"^cuda[^=]*= '(\d+)", (folder / "version.py").read_text(), re.MULTILINE)
    if version is None:
        raise SystemExit(
            "mock_cuda: this Python's torch was built without CUDA; name another: make mockgpu PYTHON=PATH"
        )
    return folder


def build_runtime(torch: Path) -> Path:
    """Compiles the runtime, what it lacks of torch's imports, and the driver's stub, once for each torch."""
    sources = [path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.suffix in (".cpp", ".h", ".c", ".py")]
    folder = BUILD / hashlib.sha256(b"".join([*sources, (torch / "version.py").read_bytes()])).hexdigest()[:16]
    runtime = folder / "libmock_cuda.so"
    if runtime.exists():
        return runtime
    folder.mkdir(parents=True, exist_ok=True)
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"
    nvcc = shutil.which("nvcc", path=_joined(toolkit, os.environ.get("PATH")))
    if nvcc is None:
        raise SystemExit("mock_cuda: there is no nvcc in CUDA_HOME, in /usr/local/cuda or on PATH")
    compiler = [nvcc, "-shared", "-Xcompiler=-fPIC,-Wall,-Wextra", "-O1", "-std=c++20", "--cudart=none"]
    complete, missing = folder / "complete.so", folder / "missing.cpp"
    compiler += sorted(map(str, SOURCES.glob("*.cpp")))
    subprocess.run([*compiler, "-o", complete], check=True)
    missing.write_text(_stubs(_symbols(*torch.glob("lib/lib*.so"), undefined=True) - _symbols(complete)))
    subprocess.run([*compiler, missing, "-o", complete], check=True)
    subprocess.run(["gcc", "-shared", "-fPIC", SOURCES / "driver.c", "-o", folder / "libcuda.so.1"], check=True)
    complete.replace(runtime)
    return runtime


def _symbols(*libraries: Path, undefined: bool = False) -> set[str]:
    """The functions of CUDA's runtime that libraries define, or take from elsewhere."""
    which = "--undefined-only" if undefined else "--defined-only"
    listed = subprocess.run(["nm", "-D", which, *libraries], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\b(?:__)?cuda[A-Z]\w*", listed))


def _stubs(names: set[str]) -> str:
    """Functions that report a fault: what is not here would otherwise be the real runtime's, which finds no GPU."""
    lines = [f'int {name}() {{ return mock_unsupported("{name}"); }}' for name in sorted(names)]
    return "\n".join(['extern "C" {', "int mock_unsupported(const char*);", *lines, "}", ""])


def build_package() -> None:
    """Builds the package with a shared CUDA runtime, into a folder of its own, and names the operators' entry point."""
    package, objects = BUILD / "lib" / "cyclegan_fast", BUILD / "objects"
    shutil.rmtree(BUILD / "lib", ignore_errors=True)
    shutil.copytree(ROOT / "cyclegan_fast", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    os.environ.setdefault("CYCLEGAN_FAST_CUDA_ARCHS", "80+PTX 90a")  # as the Makefile says, for ccache
    os.environ["CYCLEGAN_FAST_CUDART"] = "cudart"
    setup = runpy.run_path(str(ROOT / "setup.py"))  # its build functions, without a setuptools command
    objects.mkdir(parents=True, exist_ok=True)
    setup["configure"](objects, setup["cmake_settings"]())
    setup["build"](objects, "_C")
    setup["copy_extension"](objects, package / setup["EXTENSION"])
    about = BUILD / "lib" / "mock_cuda-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mock_cuda\nVersion: 0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINT)


def _joined(*folders: Path | str | None) -> str:
    return os.pathsep.join(str(folder) for folder in folders if folder)


if __name__ == "__main__":
    main()
