"""The rows of `doctor --smoke`, run in a process of their own, which a broken library may bring down.

    python -m cyclegan_fast.diagnosis.smoke_rows FOLDER ROW ROW ...

Prints one line of JSON before each row, ``{"row": name}``, and one after it: ``{"row", "ok", "message", "seconds"}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cyclegan_fast.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

    from cyclegan_fast.engine import Engine, Shapes

SIDE = 32  # pixels
STEPS = 3
GRAPH_STEPS = 6  # of which the fourth is captured
_IMAGES = 8  # of each domain


def check_operators(folder: Path) -> str:
    """The compiled operators against plain torch."""
    import torch

    from cyclegan_fast import ops

    if not ops.extension_available():
        raise UserError(f"they run in plain torch: {ops.extension_error()}")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        x = torch.randn(2, 16, SIDE, SIDE, device=device).to(memory_format=torch.channels_last)
        weight = torch.randn(16, 16, 3, 3, device=device).to(memory_format=torch.channels_last)
        results = [_norm_and_convolution(x, weight)]
        with ops.use_reference():
            results.append(_norm_and_convolution(x, weight))
        distance = (results[0] - results[1]).abs().max().item() / results[1].abs().max().item()
        if not distance < (1e-4 if device == "cpu" else 1e-2):  # TF32 on a GPU
            raise UserError(f"on {device} they differ from plain torch by {distance:.2g} of the largest value")
    return f"agree with plain torch on {' and '.join(devices)}"


def train(folder: Path) -> str:
    """Three steps on rendered scenes, and a checkpoint that loads."""
    return _train(folder / "run", STEPS, cuda_graphs="off")


def train_graphed(folder: Path) -> str:
    """Steps of which one is captured as a CUDA graph and replayed."""
    return _train(folder / "graphed", GRAPH_STEPS, cuda_graphs="on")


def infer_torch(folder: Path) -> str:
    """The checkpoint in torch."""
    from cyclegan_fast.engine import load_engine

    with load_engine(folder / "run") as engine:
        return _infer(engine, folder)


def infer_onnxruntime(folder: Path) -> str:
    """An export to ONNX, in ONNX Runtime."""
    return _infer_file(_onnx(folder), folder, "onnxruntime")


def infer_openvino(folder: Path) -> str:
    """The same file in OpenVINO."""
    return _infer_file(_onnx(folder), folder, "openvino")


def infer_aoti(folder: Path) -> str:
    """A .pt2 file, compiled here."""
    from cyclegan_fast.engine import build_engine

    path = build_engine(folder / "run", folder / "smoke.pt2", shapes=_shapes())
    return _infer_file(path, folder, "aoti")


def infer_tensorrt(folder: Path) -> str:
    """An .engine file of TensorRT, built and run on the GPU that is here."""
    from cyclegan_fast.engine import build_engine

    path = build_engine(folder / "run", folder / "smoke.engine", shapes=_shapes())
    return _infer_file(path, folder, "tensorrt")


def build_tensorrt_rtx(folder: Path) -> str:
    """An .engine file of TensorRT for RTX, which needs no GPU to build; it runs where there is one of those."""
    import torch

    from cyclegan_fast.engine import build_engine
    from cyclegan_fast.engine.backends.tensorrt_rtx import capability_of

    path = build_engine(folder / "run", folder / "rtx.engine", shapes=_shapes(), tensorrt="rtx")
    built = json.loads(path.with_name("rtx.engine.json").read_text())["compiled"]["compute_capabilities"]
    if torch.cuda.is_available() and capability_of(torch.device("cuda")) in built:
        return _infer_file(path, folder, "tensorrt")
    return f"built for compute capability {', '.join(built)}; not run: no such GPU is here"


ROWS: dict[str, Callable[[Path], str]] = {
    "operators": check_operators,
    "training": train,
    "CUDA graphs": train_graphed,
    "torch": infer_torch,
    "ONNX Runtime": infer_onnxruntime,
    "OpenVINO": infer_openvino,
    "AOTInductor": infer_aoti,
    "TensorRT": infer_tensorrt,
    "TensorRT-RTX": build_tensorrt_rtx,
}


def _norm_and_convolution(x: Tensor, weight: Tensor) -> Tensor:
    from cyclegan_fast import ops

    return ops.conv2d(ops.instance_norm_act(x, activation="relu", pad=1), weight)


def _train(out: Path, steps: int, *, cuda_graphs: str) -> str:
    from cyclegan_fast.checkpoint.native import latest_checkpoint, verify
    from cyclegan_fast.config import DataConfig, ModelConfig, RunConfig, TrainConfig
    from cyclegan_fast.data.scenes import render_dataset
    from cyclegan_fast.monitoring.events import read_events
    from cyclegan_fast.monitoring.progress import progress_hidden
    from cyclegan_fast.training.trainer import Trainer

    render_dataset(out / "data", SIDE, _IMAGES, 2, seed=0)
    config = TrainConfig(
        model=ModelConfig(generator="resnet_1blocks", ngf=8, ndf=8, discriminator="n_layers", n_layers=1),
        data=DataConfig(data=out / "data", load_size=SIDE, crop_size=SIDE),
        run=RunConfig(out=out, max_steps=steps, log_every=1, sample_every=0, cuda_graphs=cuda_graphs),  # type: ignore[arg-type]
    )
    with progress_hidden():
        Trainer(config).run()
    verify(out)
    losses, checkpoint = read_events(out)[-1]["losses"], latest_checkpoint(out)
    return f"{steps} steps of a small network, cycle loss {losses['cycle_A']:.2f}; {checkpoint.name} loads"  # type: ignore[union-attr]


def _onnx(folder: Path) -> Path:
    """The exported graph; two rows share it."""
    from cyclegan_fast.engine import build_engine

    path = folder / "smoke.onnx"
    return path if path.is_file() else build_engine(folder / "run", path)


def _shapes() -> Shapes:
    from cyclegan_fast.engine import Shapes

    return Shapes((1, SIDE, SIDE), (1, SIDE, SIDE), (2, 2 * SIDE, 2 * SIDE))


def _infer_file(path: Path, folder: Path, backend: str) -> str:
    from cyclegan_fast.engine import load_engine

    with load_engine(path, backend=backend) as engine:  # type: ignore[arg-type]
        return _infer(engine, folder)


def _infer(engine: Engine, folder: Path) -> str:
    """Translates test images, and compares the result with torch's on the CPU."""
    import torch

    from cyclegan_fast.engine import infer, load_engine
    from cyclegan_fast.engine.export.parity import BOUNDS

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, SIDE, SIDE, generator=generator) * 2.0 - 1.0
    result = infer(engine, images)
    with load_engine(folder / "run", device="cpu") as reference:
        distance = (result - infer(reference, images)).abs().max().item()
    bound = BOUNDS["fp32" if engine.device == "cpu" else "fp16"].max  # TF32 on a GPU has the digits of fp16
    if not distance <= bound:
        raise UserError(f"the result differs from torch's by {distance:.2g}, more than {bound:g}")
    return f"translates on {engine.device}; from torch on the CPU by {distance:.1g} at most"


def run_row(name: str, folder: Path) -> dict[str, object]:
    """One row: whether it passed, what it found, and the seconds that it took."""
    start = time.perf_counter()
    try:
        ok, message = True, ROWS[name](folder)
    except Exception as error:  # whatever a library raises is the finding
        ok, message = False, one_line(error if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
    return {"row": name, "ok": ok, "message": message, "seconds": round(time.perf_counter() - start, 2)}


def main(words: Sequence[str]) -> None:
    """Runs the rows that the words name after a folder; those after a training that failed have nothing to work on."""
    import torch  # noqa: F401 - whose time is no row's

    folder, *rows = words
    with os.fdopen(os.dup(1), "w", buffering=1) as report:
        os.dup2(2, 1)  # what libraries print on stdout
        for name in rows:
            print(json.dumps({"row": name}), file=report)
            result = run_row(name, Path(folder))
            print(json.dumps(result), file=report)
            if name == "training" and not result["ok"]:
                return


if __name__ == "__main__":
    main(sys.argv[1:])
