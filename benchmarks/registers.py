"""Registers, shared memory and spills of every CUDA kernel, as the compiler reports them; needs nvcc and no GPU.

python -m benchmarks.registers --out docs/results/kernels.md
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cyclegan_fast.diagnosis.build import nvcc_path

KERNELS = Path(__file__).resolve().parent.parent / "csrc" / "kernels"
_KERNEL = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Usage:
    """What one kernel needs on one architecture."""

    kernel: str  # with its template arguments
    arch: str
    registers: int
    shared: int  # bytes
    spilled: int  # bytes stored and loaded again


def parse(log: str) -> list[Usage]:
    """Reads what ``ptxas -v`` printed."""
    found = list(_KERNEL.finditer(log))
    names = demangle([match["symbol"] for match in found])
    return [
        Usage(
            name,
            match["arch"],
            int(match["registers"]),
            int(shared[1]) if (shared := re.search(r"(\d+) bytes smem", match["rest"])) else 0,
            int(match["stores"]) + int(match["loads"]),
        )
        for name, match in zip(names, found, strict=True)
    ]


def demangle(symbols: list[str]) -> list[str]:
    """Symbols as C++ names without namespaces and parameters."""
    if not symbols:
        return []
    done = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True)
    names = []
    for name in done.stdout.splitlines():
        name = re.sub(r"cyclegan_fast::|\(anonymous namespace\)::|\((?:bool|int)\)|^void ", "", name)
        names.append(name[: name.index("(")] if "(" in name else name)
    return names


def compile_all(archs: list[str]) -> list[Usage]:
    """Compiles every kernel file for every target, one at a time each, so that no two reports mix."""
    nvcc = nvcc_path()
    if nvcc is None:
        sys.exit("benchmarks.registers: there is no nvcc; set CUDA_HOME to a CUDA toolkit")

    def report(job: tuple[Path, str]) -> str:
        source, arch = job
        words = ["-std=c++17", "-O3", "-Xptxas=-v", f"-I{KERNELS}", f"-gencode=arch=compute_{arch},code=sm_{arch}"]
        command = [nvcc, *words, "-cubin", "-o", "/dev/null", source]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    with ThreadPoolExecutor(2) as pool:
        logs = pool.map(report, [(source, arch) for arch in archs for source in sorted(KERNELS.glob("*.cu"))])
        return [usage for log in logs for usage in parse(log)]


def page(usages: list[Usage]) -> str:
    """A table with a row for each kernel and a column for each architecture."""
    archs = sorted({usage.arch for usage in usages}, key=lambda arch: int(re.sub(r"\D", "", arch)))
    rows: dict[str, dict[str, Usage]] = defaultdict(dict)
    for usage in usages:
        rows[usage.kernel][usage.arch] = usage
    spilled = sum(usage.spilled > 0 for usage in usages)
    lines = [
        "# What the CUDA kernels take",
        "",
        "Registers per thread / bytes of shared memory, as the compiler reports them. Written by",
        f"`python -m benchmarks.registers`. Kernels that spill registers: {spilled} of {len(usages)}.",
        "",
        f"| kernel | {' | '.join(archs)} |",
        "|---" * (len(archs) + 1) + "|",
    ]
    for kernel, cells in sorted(rows.items()):
        lines.append(f"| `{kernel}` | " + " | ".join(_cell(cells.get(arch)) for arch in archs) + " |")
    return "\n".join(lines) + "\n"


def _cell(usage: Usage | None) -> str:
    if usage is None:
        return ""
    return f"{usage.registers} / {usage.shared}" + (f" spills {usage.spilled}" if usage.spilled else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("--archs", nargs="*", default=["80", "90a", "100", "120"], help="targets, such as 90a")
    arguments = parser.parse_args()
    usages = compile_all(arguments.archs)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page(usages))
    print(f"{len(usages)} kernels, at most {max(u.registers for u in usages)} registers: {arguments.out}")


if __name__ == "__main__":
    main()
