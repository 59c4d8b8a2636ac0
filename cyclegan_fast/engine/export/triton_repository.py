"""A model repository for Triton Inference Server: an ONNX model, maybe a TensorRT plan and an ensemble for files."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cyclegan_fast.engine.backends.onnx_file import load_onnx_file
from cyclegan_fast.engine.backends.sidecar import read_required_sidecar, weights_digest
from cyclegan_fast.engine.backends.tensorrt_api import STANDARD
from cyclegan_fast.engine.export.build import build_engine
from cyclegan_fast.engine.export.tensorrt_build import split_profiles
from cyclegan_fast.engine.export.triton_config import (
    FP32,
    OUTPUT,
    STRING,
    Fields,
    Word,
    ensemble_config,
    files_config,
    network_config,
    tensor,
)
from cyclegan_fast.engine.generator import Generator, load_generator
from cyclegan_fast.engine.info import EngineInfo, Precision
from cyclegan_fast.engine.metadata import Metadata, engine_info
from cyclegan_fast.engine.shapes import Shape
from cyclegan_fast.errors import UserError, reading_error
from cyclegan_fast.files import building_folder, storage_errors
from cyclegan_fast.metrics import Direction

_MAX_BATCH = 8  # of the ONNX model
_MAX_DELAY_US = 5000
_SIDE = 256  # of the batches that warm it up
_ONNX: Fields = {"platform": "onnxruntime_onnx", "backend": "onnxruntime", "default_model_filename": "model.onnx"}
_PLAN: Fields = {"platform": "tensorrt_plan", "backend": "tensorrt", "default_model_filename": "model.plan"}


def write_triton_repository(
    checkpoint: Path,
    folder: Path,
    *,
    direction: Direction | None = None,
    precision: Precision = "fp32",
    images: Path | None = None,
    plan: Path | None = None,
    ensemble: bool = False,
    raw_weights: bool = False,
) -> list[Path]:
    """Writes the models of one generator into a repository, each in a folder of its own that must not exist.

    Args:
        checkpoint: As for `build_engine`, which builds the ONNX model and compares it with torch.
        folder: The repository.
        direction: As for `build_engine`.
        precision: Of the ONNX model.
        images: As for `build_engine`.
        plan: An .engine file of TensorRT, of the same generator; it becomes a model, too.
        ensemble: Whether models that take and give image files are written, too.
        raw_weights: As for `build_engine`.

    Returns:
        The models' folders.

    Raises:
        UserError: One of them exists, the checkpoint or the plan cannot be used, or nothing can be written.
    """
    name = model_name(checkpoint)
    names = [name, *[f"{name}_tensorrt"] * (plan is not None)]
    names += [f"{name}_{part}" for part in ("decode", "encode", "files")] * ensemble
    if there := [name for name in names if (folder / name).exists()]:
        raise UserError(f"{folder / there[0]} exists already: remove it, or name another repository")
    built = None if plan is None else _read_plan(plan, load_generator(checkpoint, direction, raw=raw_weights))
    with tempfile.TemporaryDirectory() as scratch:
        onnx = build_engine(
            checkpoint,
            Path(scratch) / "model.onnx",
            direction=direction,
            precision=precision,
            images=images,
            raw_weights=raw_weights,
        )
        file = load_onnx_file(onnx)
        models = {name: ({"model.onnx": onnx.read_bytes()}, onnx_config(name, file.info("cpu", None)))}
    if plan is not None and built is not None:
        info = engine_info(built.metadata, name=plan.name, device="cuda")
        models[names[1]] = ({"model.plan": built.content}, plan_config(names[1], info))
    if ensemble:
        models |= _files_models(name, file.info("cpu", None), json.dumps(file.metadata))
    with storage_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        for model, (files, config) in models.items():
            _write_model(folder / model, files, config)
    return [folder / model for model in models]


def model_name(path: Path) -> str:
    """runs/horse2zebra, horse2zebra.onnx, runs/horse2zebra/best, .../checkpoints/step_00000007 -> horse2zebra."""
    parts = [part for part in path.parts if part != "checkpoints"]
    if len(parts) > 1 and re.fullmatch(r"best|step_\d+", parts[-1]):
        return parts[-2]
    return path.stem if path.suffix else path.resolve().name


def onnx_config(name: str, info: EngineInfo) -> str:
    """The configuration of the ONNX model."""
    side = info.limits.fitting_size(_SIDE, _SIDE)
    warmup: Sequence[Shape] = [(1, *side), (_MAX_BATCH, *side)]
    instances = {"count": 1, "kind": Word("KIND_AUTO")}
    return network_config(
        name, _ONNX, info, max_batch=_MAX_BATCH, max_delay_us=_MAX_DELAY_US, warmup=warmup, instances=instances
    )


def plan_config(name: str, info: EngineInfo) -> str:
    """The configuration of a plan, within the shapes that it was built for."""
    shapes = info.limits.shapes
    assert shapes is not None  # every plan has them
    profiles = [str(i) for i in range(len(split_profiles(shapes)))]
    instances: Fields = {"count": 1, "kind": Word("KIND_GPU"), "profile": profiles}
    return network_config(
        name,
        _PLAN,
        info,
        max_batch=shapes.max[0],
        max_delay_us=_MAX_DELAY_US,
        warmup=[shapes.opt],
        instances=instances,
    )


def _files_models(name: str, info: EngineInfo, facts: str) -> dict[str, tuple[dict[str, bytes], str]]:
    """The ensemble, and the two models of Python that it needs."""
    file, about = tensor("file", STRING, [1]), tensor("facts", STRING, [1])
    image = tensor("image", FP32, [info.in_format.channels, -1, -1])
    output = tensor(OUTPUT, FP32, [info.out_format.channels, -1, -1])
    result = tensor("translated_file", STRING, [1])
    decode, encode = f"{name}_decode", f"{name}_encode"
    return {
        decode: (_python_model("Decode"), files_config(decode, [file], [image, about], facts)),
        encode: (_python_model("Encode"), files_config(encode, [file, about, output], [result], facts)),
        f"{name}_files": ({}, ensemble_config(f"{name}_files", name, decode, encode)),
    }


def _python_model(kind: str) -> dict[str, bytes]:
    lines = [f"from cyclegan_fast.engine.export.triton_files import {kind} as TritonPythonModel", ""]
    return {"model.py": "\n".join(lines).encode()}


class _Plan(NamedTuple):
    content: bytes
    metadata: Metadata


def _read_plan(plan: Path, generator: Generator) -> _Plan:
    """The content of a plan, and its metadata.

    Raises:
        UserError: It is not one that Triton runs, or not of the same generator.
    """
    if plan.suffix != ".engine":
        raise UserError(f"--triton-plan {plan}: give an .engine file of TensorRT")
    try:
        content = plan.read_bytes()
    except OSError as error:
        raise reading_error(f"--triton-plan {plan}: {error.strerror or error}", error) from error
    metadata = read_required_sidecar(plan, content)
    if metadata["compiled"].get("flavour", STANDARD.name) != STANDARD.name:
        raise UserError(
            f"--triton-plan {plan} is for TensorRT for RTX, which Triton does not run: build it without rtx"
        )
    same = weights_digest(generator.network), generator.direction
    if (metadata.get("weights_sha256"), metadata["direction"]) != same:
        raise UserError(f"--triton-plan {plan} holds other weights than the checkpoint, or the other direction")
    if engine_info(metadata, name=plan.name, device="cuda").limits.min_batch > 1:
        raise UserError(
            f"--triton-plan {plan} takes no single image, which Triton must send: build it for 1 image or more"
        )
    return _Plan(content, metadata)


def _write_model(folder: Path, files: dict[str, bytes], config: str) -> None:
    with building_folder(folder) as building:
        (building / "1").mkdir()  # the version; an ensemble's is empty
        for name, content in files.items():
            (building / "1" / name).write_bytes(content)
        (building / "config.pbtxt").write_text(config, "utf-8")
