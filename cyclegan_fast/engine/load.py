"""load_engine(path): whatever holds a trained generator, ready to run."""

from __future__ import annotations

import os
from pathlib import Path

from cyclegan_fast.engine.backends import DType, Engine, TorchBackend
from cyclegan_fast.engine.generator import load_generator
from cyclegan_fast.engine.onnx import load_onnx
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import Direction


def load_engine(
    path: Path | str, *, direction: Direction | None = None, device: str = "auto", dtype: DType = "float32"
) -> Engine:
    """Loads a trained generator.

    Args:
        path: A run folder (its newest checkpoint), a checkpoint, a .safetensors or .onnx file that we exported, any
            .onnx with one image in and one out, or a .pth of the reference.
        direction: AtoB or BtoA, after the folders trainA and trainB. By default what the file holds, and AtoB where it
            holds both.
        device: auto (CUDA where there is one), cpu, cuda or cuda:<index>.
        dtype: What torch computes in: float32, bf16, or on CUDA fp16. An ONNX file computes in its own type.

    Returns:
        An engine for `infer`.

    Raises:
        UserError: The path holds no generator, it is damaged, it holds the other direction only, or the device or the
            type cannot be had.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"load_engine takes a path, got {type(path).__name__}: give a run folder or an exported file")
    path = Path(path)
    if direction not in (None, "AtoB", "BtoA"):
        raise UserError(f"direction must be AtoB or BtoA, got {direction!r}")
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_dir() or path.suffix in (".safetensors", ".pth"):
        return TorchBackend(load_generator(path, direction), name=path.name, device=device, dtype=dtype)
    if path.suffix != ".onnx":
        raise UserError(f"{path}: give a run folder, a checkpoint, or a .safetensors, .pth or .onnx file")
    if dtype != "float32":
        raise UserError(f"{path}: an ONNX file computes in its own type: leave out dtype {dtype}")
    return load_onnx(path, direction, device)
