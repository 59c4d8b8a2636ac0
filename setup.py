"""Builds cyclegan_fast._C: the CPU kernels always, the CUDA kernels wherever there is an nvcc, whichever torch is here.

Environment:
    CYCLEGAN_FAST_CUDA=0          leaves the CUDA kernels out.
    CYCLEGAN_FAST_CUDA_ARCHS      targets, by default "80 90a 100 120+PTX".
    CYCLEGAN_FAST_REQUIRE_EXT=1   a build that fails stops the install; otherwise plain torch takes over at run time.
    CUDA_HOME                     where bin/nvcc is; by default found on PATH or in /usr/local/cuda.
    CXX, MAX_JOBS                 the C++ compiler (g++) and the number of compilers at work at once.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
VERSION = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
DEFAULT_ARCHS = "80 90a 100 120+PTX"
FOLDERS = ("torch", "kernels", "kernels/cpu", "kernels/cpu_conv", "jpeg")
CXX_SOURCES = sorted(path for folder in FOLDERS for path in CSRC.glob(f"{folder}/*.cpp"))
CUDA_SOURCES = sorted(CSRC.glob("kernels/*.cu"))


def find_cuda_home() -> Path | None:
    """The toolkit's folder, or None. A wrapper script named nvcc elsewhere on PATH does not count as one."""
    if os.environ.get("CYCLEGAN_FAST_CUDA") == "0":
        return None
    on_path = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), on_path and Path(on_path).resolve().parents[1], "/usr/local/cuda"]
    for home in homes:
        if home and (Path(home) / "bin/nvcc").is_file() and (Path(home) / "include/cuda_runtime.h").is_file():
            return Path(home).resolve()
    return None


def cuda_archs() -> list[str]:
    """Targets such as ["80", "90a", "120+PTX"]."""
    return os.environ.get("CYCLEGAN_FAST_CUDA_ARCHS", DEFAULT_ARCHS).replace(";", " ").split()


def gencode_flags(archs: list[str]) -> list[str]:
    """One machine code per target, and PTX as well where the target ends in +PTX."""
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def cuda_version(cuda_home: Path) -> str:
    """The toolkit's version, such as "13.0"."""
    text = subprocess.run([cuda_home / "bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release (\d+\.\d+)", text)[1]


def cxx_flags(cuda_home: Path | None) -> list[str]:
    """Flags of the C++ files. The torch floor is 2.11: see TORCH_TARGET_VERSION."""
    import pybind11
    import torch

    torch_include = Path(torch.__file__).parent / "include"
    flags = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", f"-I{CSRC / 'kernels'}"]
    # torch carries a pybind11 of its own, which refuses the stable ABI: ours comes first.
    system = [pybind11.get_include(), sysconfig.get_path("include"), torch_include]
    flags += [f"-isystem{folder}" for folder in system]
    flags += ["-DTORCH_TARGET_VERSION=0x020b000000000000", f'-DCYCLEGAN_FAST_VERSION="{VERSION}"']
    if cuda_home:
        archs = ",".join(f'"{arch}"' for arch in cuda_archs())
        flags += ["-DCYCLEGAN_FAST_WITH_CUDA", f'-DCYCLEGAN_FAST_CUDA_VERSION="{cuda_version(cuda_home)}"']
        flags += [f"-DCYCLEGAN_FAST_CUDA_ARCH_LIST={archs}"]
    return flags


def nvcc_flags() -> list[str]:
    """Flags of the CUDA files, which see neither torch nor Python."""
    host = ["-Xcompiler", "-fPIC,-fvisibility=hidden"]
    return ["-std=c++17", "-O3", "--threads=2", *host, f"-I{CSRC / 'kernels'}", *gencode_flags(cuda_archs())]


def link_flags(cuda_home: Path | None) -> list[str]:
    """torch's libraries are already loaded when the extension is: no run path. cudart is static."""
    import torch

    flags = [f"-L{Path(torch.__file__).parent / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cpu", "-lc10", "-ltorch"]
    if cuda_home:
        places = [cuda_home / folder for folder in ("lib64", "lib", "targets/x86_64-linux/lib")]
        found = [place for place in places if (place / "libcudart_static.a").is_file()]
        if not found:
            raise RuntimeError(f"libcudart_static.a is not under {cuda_home}: install the static CUDA runtime")
        flags += [f"-L{found[0]}", "-lcudart_static", "-lrt", "-ldl", "-lpthread"]
    return flags


def ninja_escape(text: str) -> str:
    """`text` as ninja wants it in a path or a variable."""
    return text.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def command_line(parts: list[object]) -> str:
    """A shell command that ninja passes on unchanged."""
    return shlex.join(str(part) for part in parts).replace("$", "$$")


def ninja_file(output: Path, build: Path, cuda_home: Path | None) -> str:
    """The build as ninja rules: one object per source, then one shared library."""
    cxx = shlex.split(os.environ.get("CXX", "g++"))
    lines = [
        f"rule cxx\n  command = {command_line([*cxx, *cxx_flags(cuda_home)])} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc",
        f"rule link\n  command = {command_line([*cxx, '-shared'])} $in -o $out {command_line(link_flags(cuda_home))}",
    ]
    sources = [("cxx", source) for source in CXX_SOURCES]
    if cuda_home:
        nvcc = command_line([cuda_home / "bin/nvcc", *nvcc_flags()])
        lines.insert(
            0, f"rule nvcc\n  command = {nvcc} -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc"
        )
        sources = [("nvcc", source) for source in CUDA_SOURCES] + sources
    objects = []
    for rule, source in sources:
        objects.append(ninja_escape(str(build / source.relative_to(CSRC)) + ".o"))
        lines.append(f"build {objects[-1]}: {rule} {ninja_escape(str(source))}")
    lines.append(f"build {ninja_escape(str(output))}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


def find_ninja() -> str:
    """The ninja of this Python (an isolated build has one), or the one on PATH."""
    try:
        import ninja

        return str(Path(ninja.BIN_DIR) / "ninja")
    except ImportError:
        found = shutil.which("ninja")
        if found is None:
            raise RuntimeError("ninja is missing: pip install ninja") from None
        return found


def compile_extension(output: Path, build: Path) -> None:
    """Compiles and links everything that is out of date: `output` is the library, `build` holds the objects."""
    build.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    (build / "build.ninja").write_text(ninja_file(output, build, find_cuda_home()))
    jobs = os.environ.get("MAX_JOBS")
    subprocess.run([find_ninja(), "-C", build, *(["-j", jobs] if jobs else [])], check=True)


class BuildExtension(build_ext):
    """Compiles with ninja. Without a compiler the package installs without the extension and says so."""

    def build_extension(self, ext: Extension) -> None:
        """Builds `ext`, or says why not; with CYCLEGAN_FAST_REQUIRE_EXT=1 a failure is an error."""
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        try:
            compile_extension(output, Path(self.build_temp).resolve())
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
