"""Installing by hand: with a compiler, and without one."""

from __future__ import annotations

import functools
import importlib
import os
import re
import runpy
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
import setuptools

from cyclegan_fast.diagnosis.build import nvcc_path
from cyclegan_fast.ops import extension_available
from setup import find_program
from tests.commands import run_in_process
from tests.reliability import Recorder

ROOT = Path(__file__).resolve().parent.parent
USE = (
    "import torch, cyclegan_fast; from cyclegan_fast import ops; "
    "y = ops.instance_norm_act(torch.randn(1, 4, 8, 8), activation='relu', pad=1); "
    "print(cyclegan_fast.__version__, ops.extension_available(), tuple(y.shape))"
)


@dataclass(frozen=True)
class Machine:
    """A Python with its packages, and the programs on PATH."""

    python: str
    path: str


def machine_without(folder: Path, *, programs: str = "", packages: str = "") -> Machine:
    """This machine, without the programs and the packages whose whole names these expressions match."""
    venv.create(folder / "env", symlinks=True)
    site = next((folder / "env").glob("lib/python3*/site-packages"))
    for entry in Path(setuptools.__file__).parents[1].iterdir():
        if not re.fullmatch(rf"{packages}(-.*)?|.*editable.*|.*\.egg-link", entry.name):
            (site / entry.name).symlink_to(entry)
    (folder / "programs").mkdir()
    for directory in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(directory).iterdir() if Path(directory).is_dir() else ():
            link = folder / "programs" / program.name
            if not re.fullmatch(programs, program.name):
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return Machine(str(folder / "env/bin/python"), str(folder / "programs"))


HERE = Machine(sys.executable, os.environ["PATH"])


def install(target: Path, machine: Machine = HERE, **environment: str) -> subprocess.CompletedProcess[str]:
    """pip install . into a folder of its own, from a copy of what git would give."""
    source = target.parent / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    flags = [
        "install",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "-v",
        "--target",
    ]
    return subprocess.run(
        [machine.python, "-m", "pip", *flags, str(target), str(source)],
        capture_output=True,
        text=True,
        check=False,
        env=_environment() | {"PATH": machine.path} | environment,
    )


def _environment() -> dict[str, str]:
    """That of this process, without what would hide a fault."""
    hiding = ("CYCLEGAN_FAST_REQUIRE_EXT", "CXX", "CUDA_HOME", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in hiding}


def doctor(machine: Machine, target: Path, **environment: str) -> str:
    """What the doctor of an installed package prints."""
    command = [machine.python, "-m", "cyclegan_fast.doctor"]
    variables = _environment() | {"PATH": machine.path, "PYTHONPATH": str(target)} | environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=target)
    assert done.returncode in (0, 2) and not done.stderr, done.stdout + done.stderr
    return done.stdout


def use(target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Imports the installed package, and no other one, in a process of its own."""
    path = os.pathsep.join([str(target), *(p for p in sys.path if p.endswith("site-packages"))])
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": path} | environment
    command = [sys.executable, "-S", "-c", USE]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=target)


@pytest.mark.fault(25)
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="the extension is built on Linux only")
def test_pip_install_builds_the_extension_though_the_nvcc_does_not_work(tmp_path: Path, user_sees: Recorder) -> None:
    # Unoptimised, and without the CUDA kernels: the suite's own extension is the same build in full.
    nvcc = tmp_path / "cuda/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho nvcc: error while loading shared libraries >&2\nexit 127\n")
    nvcc.chmod(0o755)
    cuda = {"CUDA_HOME": str(tmp_path / "cuda")}
    done = install(tmp_path / "site", CMAKE_BUILD_TYPE="None", **cuda)
    assert done.returncode == 0, done.stderr
    assert "no nvcc that works: the CUDA kernels are not compiled" in done.stdout + done.stderr
    used = use(tmp_path / "site", CYCLEGAN_FAST_REQUIRE_EXT="1")
    assert used.returncode == 0, used.stderr
    assert used.stdout.split(maxsplit=1) == ["0.1.0", "True (1, 4, 10, 10)\n"]
    assert [file.name for file in (tmp_path / "site/cyclegan_fast").glob("*.so")] == [
        f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    ]
    found = re.search(rf"({nvcc} does not run)\n +(fix: .+)", doctor(HERE, tmp_path / "site", **cuda))
    assert found
    user_sees(": ".join(found.groups()))


OLD_NVCC = """#!/bin/sh
case "$*" in
*--list-gpu-arch*) printf 'compute_80\\ncompute_90\\n' ;;
*) exec {nvcc} "$@" ;;
esac
"""


@pytest.mark.fault(25)
@pytest.mark.skipif(nvcc_path() is None, reason="there is no nvcc")
def test_an_nvcc_of_an_older_cuda_compiles_for_the_gpus_that_it_knows(tmp_path: Path, user_sees: Recorder) -> None:
    """Asked for others it would compile nothing at all, not even what runs on a CPU."""
    old = tmp_path / "cuda/bin/nvcc"
    old.parent.mkdir(parents=True)
    old.write_text(OLD_NVCC.format(nvcc=nvcc_path()))
    old.chmod(0o755)
    command = [find_program("cmake"), "-G", "Ninja", "-S", ROOT, "-B", tmp_path / "build"]
    command += [f"-DCMAKE_MAKE_PROGRAM={find_program('ninja')}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=_environment() | {"CUDA_HOME": str(tmp_path / "cuda")}
    )
    assert done.returncode == 0, done.stderr
    user_sees(next(line for line in done.stdout.splitlines() if "this nvcc" in line).removeprefix("-- "))
    rules = (tmp_path / "build/build.ninja").read_text()
    assert "compute_90a" in rules and "compute_80,code=[compute_80" in rules and "compute_120" not in rules


MISSING = {  # what is not there -> programs, packages, and what the doctor then says of it
    "a compiler": (
        r".*(g\+\+|c\+\+|clang|cc|gcc)(-[\d.]+)?",
        "",
        r"(no g\+\+: .*)\n +(fix: sudo apt-get install g\+\+)",
    ),
    "ninja": (r"ninja.*", "ninja", r"(absent: only --no-build-isolation needs it)\n +(fix: pip install ninja)"),
}


@pytest.mark.fault(25)
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("missing", MISSING)
def test_without_a_part_of_the_build_it_installs_and_says_what_it_lacks(
    tmp_path: Path, missing: str, user_sees: Recorder
) -> None:
    programs, packages, advice = MISSING[missing]
    machine = machine_without(tmp_path / "machine", programs=programs, packages=packages)
    done = install(tmp_path / "site", machine)
    assert done.returncode == 0, done.stderr
    assert "the extension was not built" in done.stdout + done.stderr
    used = use(tmp_path / "site")
    assert used.returncode == 0, used.stderr
    assert used.stdout.split(maxsplit=1) == ["0.1.0", "False (1, 4, 10, 10)\n"]
    assert "plain-torch reference takes over" in used.stderr
    found = re.search(advice, doctor(machine, tmp_path / "site"))
    assert found
    user_sees(": ".join(found.groups()))

    if missing == "a compiler":
        refused = install(tmp_path / "other" / "site", machine, CYCLEGAN_FAST_REQUIRE_EXT="1")
        assert refused.returncode != 0


def test_an_isolated_build_asks_for_torch_only_where_there_is_none(tmp_path: Path) -> None:
    venv.create(tmp_path / "env")
    site = next((tmp_path / "env").glob("lib/python3*/site-packages"))
    (tmp_path / "isolated").mkdir()
    here = Path(setuptools.__file__).parents[1]
    for part in (*here.glob("setuptools*"), here / "_distutils_hack"):
        (tmp_path / "isolated" / part.name).symlink_to(part)
    program = (
        f"import sys; sys.path = [{str(ROOT)!r}, {str(tmp_path / 'isolated')!r}, "
        "*(folder for folder in sys.path if not folder.endswith('site-packages'))]; "
        "from build_backend import *; print(get_requires_for_build_wheel(), get_requires_for_build_editable())"
    )

    def asked_for() -> str:
        command = [tmp_path / "env/bin/python", "-s", "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    assert asked_for() == "['torch>=2.11'] ['torch>=2.11']"
    (site / "torch").mkdir()
    (site / "torch" / "__init__.py").touch()
    assert asked_for() == "[] []"


def test_make_gpu_without_a_gpu_names_what_it_leaves_out() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "There is no CUDA device here" in done.stdout
    assert "tests/training/test_step_gpu.py::test_" in done.stdout
    assert "tests/ops/test_instance_norm_act.py" in done.stdout


def test_the_gpu_tests_need_no_hypothesis(tmp_path: Path) -> None:
    """`make gpu` installs nothing; what a Python must have for it stands in benchmarks/gpu.py."""
    (tmp_path / "hypothesis.py").write_text("raise ModuleNotFoundError(__name__)")
    words = ["-p", "no:hypothesispytest", "-m", "gpu", "--collect-only", "-q", "tests/training/test_step_gpu.py"]
    command = [sys.executable, "-m", "pytest", *words]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_wheels_are_tried_with_runs_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not extension_available():
        pytest.skip("the extension is missing")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    tried = runpy.run_path(str(ROOT / "tools/try_wheels.py"))
    monkeypatch.chdir(tmp_path)
    exec(tried["OPERATORS"], {})
    exec(tried["IMAGES"], {})
    for command in (tried["TRAIN"], tried["EXPORT"]):
        module, *words = command.split()
        done = run_in_process(functools.partial(importlib.import_module(module).main, words))
        assert done.returncode == 0, done.stderr
    exec(tried["USE"], {})
