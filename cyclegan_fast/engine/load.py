"""load_engine(path): whatever holds a trained generator, ready to run."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from cyclegan_fast.checkpoint import named_checkpoint
from cyclegan_fast.engine.backends.aoti import load_aoti
from cyclegan_fast.engine.backends.onnx_file import load_onnx_file
from cyclegan_fast.engine.backends.onnxruntime import OnnxBackend, resolve_onnx_device
from cyclegan_fast.engine.backends.openvino import OpenVinoBackend
from cyclegan_fast.engine.backends.tensorrt import load_tensorrt
from cyclegan_fast.engine.backends.torch import TorchBackend
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.generator import load_generator
from cyclegan_fast.engine.info import PRECISIONS, Precision
from cyclegan_fast.engine.metadata import check_precision
from cyclegan_fast.engine.threads import check_threads, lacks_threads, torch_threads
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.images.find import refuse_url
from cyclegan_fast.metrics import Direction

Backend = Literal["auto", "torch", "onnxruntime", "openvino", "aoti", "tensorrt"]


def load_engine(
    path: Path | str,
    *,
    direction: Direction | None = None,
    device: str = "auto",
    precision: Precision | None = None,
    backend: Backend = "auto",
    threads: int | None = None,
) -> Engine:
    """Loads a trained generator.

    Args:
        path: A run folder (its newest checkpoint), RUN/best, a checkpoint, a .safetensors, .onnx, .pt2 or .engine file
            that we exported, any .onnx with one image in and one out (values in [-1, 1]), or a .pth of the reference.
        direction: AtoB or BtoA, after the folders trainA and trainB. By default what the file holds, and AtoB where it
            holds both.
        device: auto (CUDA where there is one), cpu, cuda or cuda:<index>.
        precision: What the convolutions compute in. Weights: fp32 (the default), bf16, or on CUDA fp16. An engine file
            has its own, which OpenVINO may turn from fp32 into bf16.
        backend: What runs it. auto: torch for weights, onnxruntime for .onnx (openvino for those of bf16 on a CPU),
            aoti for .pt2, tensorrt for .engine. An .onnx file runs in openvino, too.
        threads: CPU threads that a call computes on; on a GPU it changes nothing. By default torch's number (a thread
            for each core, or what OMP_NUM_THREADS asks for), within the container's CPU limit. It becomes torch's
            number in this process, too.

    Returns:
        An engine for `infer`. Pickled, it ships the path and these arguments, and is loaded where it is unpickled. A
        .pt2 or .engine file holds machine code: load only those that you trust.

    Raises:
        UserError: The path holds no generator, it is damaged, it holds the other direction only, or the device, the
            precision or the backend cannot be had.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"load_engine takes a path, got {type(path).__name__}: give a run folder or an exported file")
    refuse_url(path, "download the file, and give its path")
    path = named_checkpoint(Path(path))
    if not isinstance(device, str):
        raise UserError(f"device must be auto, cpu, cuda or cuda:<index>, got {device!r}")
    if direction not in (None, "AtoB", "BtoA"):
        raise UserError(f"direction must be AtoB or BtoA, got {direction!r}")
    if precision not in (None, *PRECISIONS):
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    check_threads(threads)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist")
    kind = "" if path.is_dir() else path.suffix
    if kind not in _BACKENDS:
        raise UserError(
            f"{path}: give a run folder, a checkpoint, or a .safetensors, .pth, .onnx, .pt2 or .engine file"
        )
    known = _BACKENDS[kind]
    if backend not in ("auto", *known):
        raise UserError(f"{path}: backend must be auto or {' or '.join(known)} for this, got {backend!r}")
    with torch_threads(1 if lacks_threads() else None):  # weights are copied and converted by torch
        if kind == ".onnx":
            engine = _load_onnx(path, direction, device, precision, threads, backend)  # type: ignore[arg-type]
        else:
            (load,) = known.values()
            engine = load(path, direction, device, precision, threads)
    if engine.threads is not None and engine.threads != torch.get_num_threads():
        torch.set_num_threads(engine.threads)
    again = functools.partial(
        load_engine,
        path.absolute(),
        direction=direction,
        device=device,
        precision=precision,
        backend=backend,
        threads=threads,
    )
    return engine.loaded_by(again)


def _load_torch(
    path: Path, direction: Direction | None, device: str, precision: Precision | None, threads: int | None
) -> Engine:
    generator = load_generator(path, direction)
    return TorchBackend(generator, name=path.name, device=device, precision=precision, threads=threads)


def _load_onnx(
    path: Path,
    direction: Direction | None,
    device: str,
    precision: Precision | None,
    threads: int | None,
    backend: Literal["auto", "onnxruntime", "openvino"] = "auto",
) -> Engine:
    """Loads an ONNX file.

    auto is ONNX Runtime, but for bf16 on the CPU, of which it has no convolutions there, OpenVINO.
    """
    file = load_onnx_file(path, direction)
    if backend == "auto":
        bf16_on_cpu = file.precision == "bf16" and resolve_onnx_device(device).type == "cpu"
        backend = "openvino" if bf16_on_cpu else "onnxruntime"
    if backend == "openvino":
        if device not in ("auto", "cpu"):
            raise UserError(f"backend openvino runs on the CPU, not on {device}: leave the device out, or the backend")
        return OpenVinoBackend(file, precision=precision, threads=threads)
    check_precision(precision, file.precision, path)
    return OnnxBackend(file, device=device, threads=threads)


_Load = Callable[[Path, Direction | None, str, Precision | None, int | None], Engine]
_TORCH: dict[str, _Load] = {"torch": _load_torch}
# By the suffix of a file; folders have none.
_BACKENDS: dict[str, dict[str, _Load]] = {
    "": _TORCH,
    ".safetensors": _TORCH,
    ".pth": _TORCH,
    ".onnx": {"onnxruntime": _load_onnx, "openvino": _load_onnx},
    ".pt2": {"aoti": load_aoti},
    ".engine": {"tensorrt": load_tensorrt},
}
