"""Builds cyclegan_fast._C with CMake: CPU kernels always, CUDA kernels where there is an nvcc, whichever torch is here.

CMakeLists.txt describes the build; this file knows where torch, pybind11 and Python are, and what to do
without a compiler. The objects stay in build/torch-<version>, so that the next build compiles only what changed.

Environment:
    CYCLEGAN_FAST_CUDA=0          leaves the CUDA kernels out.
    CYCLEGAN_FAST_CUDA_ARCHS      targets, by default "80 90a 100 120+PTX".
    CYCLEGAN_FAST_CUDART=cudart   links the CUDA runtime's shared library instead of cudart_static (tests/mock_cuda).
    CYCLEGAN_FAST_REQUIRE_EXT=1   a build that fails stops the install; otherwise plain torch takes over at run time.
    CYCLEGAN_FAST_NO_SPILLS=1     a CUDA kernel that spills registers is an error.
    CUDA_HOME                     where bin/nvcc is; by default found on PATH or in /usr/local/cuda.
    CXX, MAX_JOBS                 the C++ compiler and the number of compilers at work at once.
    CMAKE_BUILD_TYPE              Release by default; Debug compiles faster and runs slower.
"""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
EXTENSION = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"  # pybind11: for this version of Python


def find_torch() -> Path | None:
    """torch's folder: of this Python or, in an isolated build, of the environment that it builds for."""
    environment = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    spec = PathFinder.find_spec("torch", [*sys.path, *environment, site.getusersitepackages()])
    return Path(spec.origin).parent if spec and spec.origin else None


def build_folder() -> Path:
    """Where the objects of this torch lie, such as build/torch-2.13.0+cpu."""
    text = (find_torch() / "version.py").read_text()  # importing torch takes seconds
    return ROOT / "build" / ("torch-" + re.search(r"__version__ = '(.+)'", text)[1])


def find_program(name: str) -> str:
    """The program on PATH, where an isolated build has its own, or beside this Python."""
    path = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
    found = shutil.which(name, path=path)
    if found is None:
        raise RuntimeError(f"{name} is missing: pip install {name}")
    return found


def cmake_settings() -> list[str]:
    """The values of CMakeLists.txt's variables."""
    import pybind11

    torch = find_torch()
    if torch is None:
        raise RuntimeError('torch is missing: pip install "torch>=2.11" first')
    settings = {
        "CMAKE_MAKE_PROGRAM": find_program("ninja"),
        "CYCLEGAN_FAST_TORCH": torch,
        "CYCLEGAN_FAST_PYBIND11": pybind11.get_include(),
        "CYCLEGAN_FAST_PYTHON": sysconfig.get_path("include"),
        "CYCLEGAN_FAST_SUFFIX": sysconfig.get_config_var("EXT_SUFFIX"),
        "CYCLEGAN_FAST_CUDA": "OFF" if os.environ.get("CYCLEGAN_FAST_CUDA") == "0" else "ON",
        "CYCLEGAN_FAST_NO_SPILLS": "ON" if os.environ.get("CYCLEGAN_FAST_NO_SPILLS") == "1" else "OFF",
    }
    for name in ("CYCLEGAN_FAST_CUDA_ARCHS", "CYCLEGAN_FAST_CUDART"):
        if value := os.environ.get(name):
            settings[name] = value
    return [f"-D{name}={value}" for name, value in settings.items()]


def configure(folder: Path, settings: list[str]) -> None:
    """Runs cmake for a build in `folder`, anew where a setting, the compiler or the checkout's place has changed."""
    variables = [f"{name}={os.environ.get(name)}" for name in ("CXX", "CXXFLAGS", "CUDA_HOME", "CMAKE_BUILD_TYPE")]
    record, wanted = folder / "settings.txt", "\n".join([str(ROOT), *settings, *variables])
    if record.is_file() and record.read_text() == wanted:
        return
    for stale in (record, folder / "CMakeCache.txt"):  # but not what --fresh removes, the objects
        stale.unlink(missing_ok=True)
    command = [find_program("cmake"), "-G", "Ninja", "-S", ROOT, "-B", folder, *settings]
    subprocess.run(command, check=True)
    record.write_text(wanted)


def build(folder: Path, *targets: str) -> None:
    """Compiles what is out of date."""
    jobs = os.environ.get("MAX_JOBS")
    command = [find_program("cmake"), "--build", folder, "--target", *targets]
    shared = {"CCACHE_BASEDIR": str(ROOT)}  # what one checkout compiled serves the others
    subprocess.run([*command, *(["--parallel", jobs] if jobs else [])], check=True, env=shared | os.environ)


def copy_extension(folder: Path, output: Path) -> None:
    """Puts the extension that was built in `folder` at `output`, if it is another one."""
    built = folder / EXTENSION
    if output.is_file() and output.read_bytes() == built.read_bytes():
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = output.with_suffix(".new")  # moved over the old one, which a process may have loaded
    shutil.copy2(built, fresh)
    fresh.replace(output)


class BuildExtension(build_ext):
    """Compiles with CMake. Without a compiler the package installs without the extension and says so."""

    def build_extension(self, ext: Extension) -> None:
        """Builds `ext`, or says why not; with CYCLEGAN_FAST_REQUIRE_EXT=1 a failure is an error."""
        try:
            settings, folder = cmake_settings(), build_folder()
            configure(folder, settings)
            build(folder, "_C")
            copy_extension(folder, Path(self.get_ext_fullpath(ext.name)).resolve())
        except (OSError, RuntimeError, ImportError, subprocess.CalledProcessError) as error:
            if os.environ.get("CYCLEGAN_FAST_REQUIRE_EXT") == "1":
                raise
            ext.optional = True
            print(
                f"cyclegan_fast: the extension was not built ({error}); installing without it: plain torch will run "
                "the operators, slower. CYCLEGAN_FAST_REQUIRE_EXT=1 makes this an error.",
                file=sys.stderr,
            )


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("cyclegan_fast._C", sources=[])] if sys.platform == "linux" else [],
        cmdclass={"build_ext": BuildExtension},
    )
