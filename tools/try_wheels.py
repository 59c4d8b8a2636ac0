"""make try-wheels: installs the wheel and the sdist of dist/ into empty environments and uses them there.

For each version of torch one environment gets that torch, and nothing else; a copy of it gets the wheel, another one
the sdist, which is compiled there. Away from the checkout each then runs: the import, `doctor --strict`, the operators
against plain torch, a training run of two steps, and, with the extra [onnx], an export and its use. The last lines are
a table for docs/toolchain.md. Status 1 if anything failed.

python tools/try_wheels.py 2.11.0 2.13.0 2.14.1
python tools/try_wheels.py --only wheel --keep environments 2.13.0

An environment with a torch for CUDA takes about 6 GB while it is used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"  # in the names of its wheels
TRAIN = (
    "cyclegan_fast.train --data data --out run --generator resnet_1blocks --ngf 4 --ndf 4 --load-size 36 "
    "--crop-size 32 --workers 0 --max-steps 2"
)
EXPORT = "cyclegan_fast.export --checkpoint run --direction AtoB --out model.onnx"

IMAGES = """
import numpy as np
from PIL import Image
from pathlib import Path

rng = np.random.default_rng(0)
for folder in ("data/trainA", "data/trainB"):
    Path(folder).mkdir(parents=True)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(f"{folder}/{i}.jpg")
"""
OPERATORS = """
import torch
import torch.nn.functional as F
from cyclegan_fast import ops

assert ops.extension_available()
for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 16, 24, 20, device=device).contiguous(memory_format=layout).requires_grad_()
        exact = x.detach().double().cpu().requires_grad_()
        y = ops.instance_norm_act(x, activation="relu", pad=1)
        expected = F.pad(F.relu(F.instance_norm(exact)), (1, 1, 1, 1), mode="reflect")
        weight = torch.randn(expected.shape, dtype=torch.float64)
        (y * weight.float().to(device)).sum().backward()
        (expected * weight).sum().backward()
        loss = ops.cycle_loss([(x, x.detach() + 1)], [10.0])
        for got, true in ((y, expected), (x.grad, exact.grad), (loss, torch.tensor([10.0]))):
            error = (got.double().cpu() - true).norm() / true.norm()
            assert error < 1e-5, (device, layout, error)
    print(f"operators on {device}: right")
"""
USE = """
import numpy as np
import cyclegan_fast

engine = cyclegan_fast.load_engine("model.onnx")
images = np.zeros((1, 32, 48, 3), np.uint8)
assert cyclegan_fast.infer(engine, images).shape == images.shape
print("the exported engine runs")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("torch", nargs="+", metavar="TORCH", help="versions of torch")
    parser.add_argument("--only", choices=["wheel", "sdist"], help="leave the other one out")
    parser.add_argument("--keep", type=Path, help="a folder for the environments, which then stay")
    options = parser.parse_args()
    rows, failed = [], False
    for version in options.torch:
        with tempfile.TemporaryDirectory() as temporary:
            base = (options.keep or Path(temporary)) / f"torch-{version}"
            create_environment(base, version)
            for kind, pattern in (("wheel", f"*-{PYTHON}-*.whl"), ("sdist", "*.tar.gz")):
                if options.only in (None, kind):
                    (artifact,) = DIST.glob(pattern)
                    result = try_artifact(base, artifact, base.with_name(f"{base.name}-{kind}"))
                    rows.append(f"| {platform.python_version()} | {torch_of(base)} | {artifact.name} | {result} |")
                    failed |= not result.startswith("works")
    print("\n".join(["", "| Python | torch | installed | result |", "|---|---|---|---|", *rows]))
    return int(failed)


def create_environment(folder: Path, torch: str) -> None:
    """An environment with this torch, the one for the CPU where pip finds one, and what torch needs."""
    run([sys.executable, "-m", "venv", folder])
    run([folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-cache-dir", f"torch=={torch}"])


def torch_of(environment: Path) -> str:
    code = "import torch; print(torch.__version__ + ('' if torch.cuda.is_available() else ', without a GPU'))"
    return run([environment / "bin/python", "-c", code]).strip()


def try_artifact(base: Path, artifact: Path, environment: Path) -> str:
    """Installs into a copy of `base` and uses it; returns what to say of it."""
    print(f"== {artifact.name} beside torch {base.name.removeprefix('torch-')}", flush=True)
    shutil.copytree(base, environment, symlinks=True, copy_function=os.link)  # pip replaces files, never writes in them
    began = time.monotonic()
    try:
        use(environment / "bin/python", artifact)
    except subprocess.CalledProcessError as error:
        print(f"{error}\n{error.stdout}\n{error.stderr}", file=sys.stderr, flush=True)
        return f"fails: {error.cmd[-1] if len(error.cmd) < 5 else ' '.join(map(str, error.cmd[2:5]))}"
    return f"works, {time.monotonic() - began:.0f} s"


def use(python: Path, artifact: Path) -> None:
    """Runs everything in an empty folder. Raises CalledProcessError."""
    pip = [python, "-m", "pip", "install", "--quiet"]
    run([*pip, str(artifact)], CYCLEGAN_FAST_REQUIRE_EXT="1")
    with tempfile.TemporaryDirectory() as folder:
        place = run([python, "-c", "import cyclegan_fast; print(cyclegan_fast.__file__)"], folder).strip()
        if not Path(place).is_relative_to(python.parents[1]):
            raise SystemExit(f"try_wheels: the package was imported from {place}")
        report = json.loads(run([python, "-m", "cyclegan_fast.doctor", "--strict", "--json"], folder))
        facts = {item["name"]: item["message"] for items in report["findings"].values() for item in items}
        print(f"doctor: {report['verdict']} CUDA kernels: {facts['CUDA kernels']}", flush=True)
        print(run([python, "-c", OPERATORS], folder), end="", flush=True)
        run([python, "-c", IMAGES], folder)
        run([python, "-m", *TRAIN.split()], folder)
        run([*pip, "cyclegan-fast[onnx]"], folder)
        run([python, "-m", *EXPORT.split()], folder)
        print(run([python, "-c", USE], folder), end="", flush=True)


def run(command: list[str | Path], folder: str | Path = "/", **environment: str) -> str:
    """Runs a command that sees nothing of the checkout, and returns what it prints."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = outside | environment
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
