"""make gpu: on a host with a GPU, build, prove and measure, then write docs/results/<gpu>.md and .json.

make gpu PARTS=proof      in 5 minutes: the C++ and Python tests, then our step of record and its kernels
make gpu PARTS=measure    in 7 minutes: the same step beside its peers, then operators, batches, engines and the rest
make gpu PARTS="kernels step"

The parts come in the order of what they prove, so that an end at any second leaves the most. Where the environment
variable OUT names a folder, log.txt, the tests' junit files, the tables and results.tar.gz (for docs/) are copied
there all the time (give_back.py).

Needs no network and installs nothing: this Python must have torch >= 2.11, pybind11, pytest and pytest-benchmark, and
nvcc, cmake >= 3.24 and ninja must be there; pytest-xdist is used where it is. Everything is built into build/gpu.
Without a GPU it names the tests that it leaves out and exits with 0.

The loader dali takes part where this Python has NVIDIA DALI, or where a folder holds it: build/dali, or the one that
CYCLEGAN_FAST_DALI names. That is what `pip install --target FOLDER nvidia-dali-cuda130` makes (without numpy, which is
this Python's own), or the same packed with tar and xz and cut into dali.tar.xz.part0, part1 and so on.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it is run as a file, by any Python

from benchmarks.give_back import copied_to

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "gpu"
OBJECTS = BUILD / "objects"
CPP_TESTS = OBJECTS / "tests" / "cpp" / "test_cuda"
RESULTS = ROOT / "docs" / "results"
SANITIZERS = ("memcheck", "racecheck")
TEST_PROCESSES = 8
BUILD_SECONDS = 45  # one target, on many cores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = f"{', '.join(PARTS)}; proof: {', '.join(PROOF)}; measure: all others"
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {names}; all if none is named")
    parser.add_argument("--seconds", type=float, help="time for everything together, by default what the parts take")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - {*PARTS, "proof", "measure"}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {names}")
    try:
        import torch
    except ImportError:
        print("make gpu: this Python has no torch; name one that has: make gpu PYTHON=/path/to/python3")
        return 0
    if not torch.cuda.is_available():
        return without_gpu()
    parts = named(arguments.parts)
    out = os.environ.get("OUT")
    BUILD.mkdir(parents=True, exist_ok=True)
    with copied_to(Path(out), RESULTS.parent, BUILD) if out else contextlib.nullcontext():
        major, minor = torch.cuda.get_device_capability()
        return run(parts, f"{major}{minor}{'a' if major == 9 else ''}", arguments.seconds)


def named(words: Sequence[str]) -> list[str]:
    """The parts that are meant, in their order."""
    groups = {"proof": PROOF, "measure": [part for part in PARTS if part not in PROOF]}
    wanted = {part for word in words for part in groups.get(word, [word])} or set(PARTS)
    return [part for part in PARTS if part in wanted]


def run(parts: Sequence[str], arch: str, seconds: float | None) -> int:
    """Builds for one target and runs the parts, each within its share of the time that is left."""
    began, failed = time.monotonic(), 0
    weights = [PARTS[part][0] for part in parts]
    end = began + (BUILD_SECONDS + sum(weights) if seconds is None else seconds)
    build(arch)
    print(f"== built in {time.monotonic() - began:.0f} s", flush=True)
    for i, part in enumerate(parts):
        share = weights[i] / sum(weights[i:])
        failed |= PARTS[part][1](share * (end - time.monotonic()))
        print(f"== {part}: done after {time.monotonic() - began:.0f} s", flush=True)
    return failed


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
    """Compiles the package and the C++ tests, with kernels for this GPU alone, into a folder of its own."""
    os.environ |= {"CYCLEGAN_FAST_CUDA_ARCHS": arch}
    package = BUILD / "lib" / "cyclegan_fast"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "cyclegan_fast", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    setup = runpy.run_path(str(ROOT / "setup.py"))  # its build functions, without a setuptools command
    try:
        setup["configure"](OBJECTS, [*setup["cmake_settings"](), "-DCYCLEGAN_FAST_TESTS=ON"])
        setup["build"](OBJECTS, "_C", "test_cuda")
    except (RuntimeError, ImportError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"make gpu: {error}; a build needs g++, nvcc (of CUDA_HOME, on PATH or in /usr/local/cuda) and the Python "
            "packages cmake, ninja and pybind11"
        ) from None
    setup["copy_extension"](OBJECTS, package / setup["EXTENSION"])


def kernels(seconds: float) -> int:
    """The C++ tests on the GPU, and again under the tools of compute-sanitizer that find what tests alone do not."""
    end = time.monotonic() + seconds
    failed = run_command("the C++ tests", [CPP_TESTS], seconds=seconds / 2)
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        print("compute-sanitizer is not here: the C++ tests ran without it", flush=True)
        return failed
    for i, tool in enumerate(SANITIZERS):
        words = [sanitizer, "--tool", tool, "--error-exitcode", "1", CPP_TESTS, "--quick"]
        share = (end - time.monotonic()) / (len(SANITIZERS) - i)
        failed |= run_command(f"compute-sanitizer {tool}", words, seconds=share, must_finish=False)
    return failed


def tests(seconds: float) -> int:
    """The Python tests marked gpu, the step's first, on the package that was built and not the one in the checkout."""
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-o", f"pythonpath={BUILD / 'lib'} ."]
    words += ["-p", "benchmarks.print_failures"]  # each at once, as the run may be ended before its summary
    words += ["--continue-on-collection-errors"]  # a module that is missing here costs the file that needs it
    processes = ["-n", str(TEST_PROCESSES)] if importlib.util.find_spec("xdist") else []
    step = "tests/training/test_step_gpu.py"
    others = [*processes, "tests", f"--ignore={step}"]
    failed = 0
    for what, share, more in (("step", 0.4, [*processes, step]), ("others", 0.45, others)):
        report = f"--junitxml={BUILD / f'junit-{what}.xml'}"
        failed |= run_command(f"the tests, {what}", [*words, report, *more], seconds=share * seconds)
    # Finds a kernel that reads what another stream writes, with nothing that makes it wait.
    words += [step, "-k", "two_streams_change_no_bit"]
    return failed | run_command("the stream sanitizer", words, seconds=0.15 * seconds, TORCH_CUDA_SANITIZER="1")


def measure(what: str, seconds: float, *options: str) -> int:
    """The tables in docs/results."""
    words = ["-m", "benchmarks.measure", "--out", str(RESULTS), "--only", what, "--seconds", f"{0.9 * seconds:.0f}"]
    return run_command(f"the benchmarks of the {what}", [sys.executable, *words, *options], seconds=seconds)


def convolutions(seconds: float) -> int:
    """Where each layer's convolutions stand against a product of matrices: what kernels of our own could win."""
    failed = 0
    for dtype in ("bfloat16", "float32"):
        words = ["-m", "benchmarks.bench_convs", "--size", "256", "--channels", "64", "--batch", "2", "--dtype", dtype]
        command = [sys.executable, *words, "--out", str(RESULTS)]
        failed |= run_command(f"the convolutions in {dtype}", command, seconds=seconds / 2)
    return failed


def agreement(seconds: float) -> int:
    """Whether 16 bits and graphs train as float32 does."""
    words = ["-m", "benchmarks.agreement", "--out", str(RESULTS), "--seeds", "2"]
    return run_command("500 steps in every mode", [sys.executable, *words], seconds=seconds)


PARTS: dict[str, tuple[float, Callable[[float], int]]] = {  # name -> seconds, what runs; most proof first
    "kernels": (55, kernels),
    "tests": (130, tests),
    "record": (70, lambda seconds: measure("step", seconds, "--uncompiled")),
    "step": (110, functools.partial(measure, "step")),
    "operators": (70, functools.partial(measure, "operators")),
    "batches": (60, functools.partial(measure, "batches")),
    "infer": (45, functools.partial(measure, "infer")),
    "convolutions": (20, convolutions),
    "data": (15, functools.partial(measure, "data")),
    "ladder": (15, functools.partial(measure, "ladder")),
    "agreement": (40, agreement),
}
PROOF = ("kernels", "tests", "record")


@functools.cache
def dali_folder() -> Path | None:
    """The folder that NVIDIA DALI is imported from; None, which it reports, where there is none."""
    with contextlib.suppress(ModuleNotFoundError):  # there may be no "nvidia" at all
        spec = importlib.util.find_spec("nvidia.dali")
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parents[2]
    folder = Path(os.environ.get("CYCLEGAN_FAST_DALI", ROOT / "build" / "dali"))
    if parts := sorted(folder.glob("dali.tar.xz.part*")):
        folder = unpack(parts, BUILD / "dali")
    if (folder / "nvidia" / "dali" / "__init__.py").is_file():
        return folder
    print(f"NVIDIA DALI is not here, nor in {folder}: the tests of the loader dali are left out", flush=True)
    return None


def unpack(parts: Sequence[Path], folder: Path) -> Path:
    """Unpacks a tar file that was cut into parts, once."""
    done = folder / "unpacked"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with subprocess.Popen(["tar", "-xJ", "-C", folder], stdin=subprocess.PIPE) as tar:
            assert tar.stdin is not None
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, tar.stdin)
            tar.stdin.close()
        if tar.returncode:
            raise SystemExit(f"make gpu: {parts[0].parent} holds no whole archive of DALI")
        done.touch()
    return folder


def run_command(
    what: str, words: Sequence[str | Path], seconds: float, must_finish: bool = True, **settings: str
) -> int:
    """Runs a command with the built package on its path; returns its status and reports what failed."""
    folders = [BUILD / "lib", ROOT, dali_folder(), os.environ.get("PYTHONPATH")]
    path = os.pathsep.join(map(str, filter(None, folders)))
    environment = os.environ | {"PYTHONPATH": path, "CYCLEGAN_FAST_REQUIRE_EXT": "1", "PYTHONSAFEPATH": "1"} | settings
    process = subprocess.Popen(words, cwd=ROOT, env=environment, start_new_session=True)
    try:
        status = process.wait(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children too: they would disturb what is measured next
        process.wait()
        print(f"{what}: not done after {seconds:.0f} s", file=sys.stderr)
        return int(must_finish)
    if status:
        print(f"{what}: ended with status {status}", file=sys.stderr)
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
