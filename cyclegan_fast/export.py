"""python -m cyclegan_fast.export: turns a checkpoint into a file that travels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from cyclegan_fast.cli import run_command
from cyclegan_fast.errors import UserError

if TYPE_CHECKING:
    from cyclegan_fast.engine import Shapes


def export(
    checkpoint: Path,
    out: Path | None = None,
    *,
    direction: Literal["AtoB", "BtoA"] | None = None,
    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8"] = "fp32",
    shapes: tuple[str, str, str] | None = None,
    images: Path | None = None,
    device: str = "auto",
    tensorrt: Literal["standard", "rtx"] = "standard",
    compute_capabilities: tuple[str, ...] | None = None,
    inspect: bool = False,
    raw_weights: bool = False,
    triton_repository: Path | None = None,
    triton_plan: Path | None = None,
    triton_ensemble: bool = False,
) -> None:
    """Exports one trained generator as .onnx, .engine, .pt2, .safetensors or .pth; the suffix of --out selects which.

    For example:
        python -m cyclegan_fast.export --checkpoint runs/horse2zebra --direction AtoB --out horse2zebra.onnx
        python -m cyclegan_fast.export --checkpoint runs/horse2zebra --out h2z.pt2 --shapes 1x64x64 1x256x256 8x512x512
        python -m cyclegan_fast.export --checkpoint runs/horse2zebra --out int8.onnx --precision int8 --images testA
        python -m cyclegan_fast.export --checkpoint runs/horse2zebra --out h2z.engine --precision fp16
        python -m cyclegan_fast.export --checkpoint runs/horse2zebra --out rtx.engine --precision fp16 --tensorrt rtx
        python -m cyclegan_fast.export --checkpoint runs/horse2zebra --triton-repository models --triton-ensemble

    An .onnx file runs in ONNX Runtime and OpenVINO, on any batch size and image size. An .engine file is what
    TensorRT makes of it for this GPU, which takes minutes, or TensorRT for RTX for other GPUs, which takes seconds and
    needs none. A .pt2 file is compiled code for torch (AOTInductor). All are compared with torch before they are
    written, and <out>.json beside them describes them. A .safetensors file holds the weights and their settings. A .pth
    file is what the authors' PyTorch implementation reads.

    Args:
        checkpoint: A run's folder (its newest checkpoint), RUN/best, a checkpoint, a .safetensors file or a .pth file.
        out: File to write; an older one is replaced.
        direction: AtoB or BtoA, as in trainA and trainB. By default what the checkpoint holds; AtoB if both.
        precision: What an engine computes in: fp32, fp16 (.pt2: on a GPU), bf16, or int8 or fp8 (.onnx and .engine),
            which need --images.
        shapes: The batches that a .pt2 or .engine file serves, as images x height x width: the smallest, the usual, the
            largest. By default fastest at one image of 256x256, and up to 64 of 4096x4096 (.pt2) or 16 of 1024x1024.
        images: Folder of images of the domain that it translates, such as testA: what the engine is compared with torch
            on (by default rendered scenes), and what int8 and fp8 are calibrated on. What quarantine.txt names, in it
            or in the data folder above it, is left out.
        device: What a .pt2 or .engine file is compiled for: auto (CUDA where there is one), cpu or cuda.
        tensorrt: What builds an .engine file: standard (TensorRT, for the model of GPU that is here), or rtx (TensorRT
            for RTX, for GPUs that need not be here; not for Hopper).
        compute_capabilities: Of the GPUs that rtx builds for, such as 8.6 12.0. By default all from 8.0 on that compute
            in this precision; 7.5 (Turing) is built for on request.
        inspect: With rtx: write the compiled layers, with their types, into <out>.layers.md.
        raw_weights: Of a run trained with --ema: export the weights as they are trained, not their average.
        triton_repository: Folder of models for Triton Inference Server to write into, instead of --out: an ONNX model
            with its configuration, named after the run.
        triton_plan: An .engine file of TensorRT of the same generator, as a second model of that repository.
        triton_ensemble: Write models into it that take and give image files, too; Triton's Python needs this package.
    """
    if triton_repository is not None:
        if any((out, shapes, device != "auto", tensorrt != "standard", compute_capabilities, inspect)):
            raise UserError(
                "--triton-repository writes ONNX: leave out --out, --shapes, --device and what is about TensorRT"
            )
        _export_repository(
            checkpoint,
            triton_repository,
            direction=direction,
            precision=precision,
            images=images,
            plan=triton_plan,
            ensemble=triton_ensemble,
            raw_weights=raw_weights,
        )
        return
    if out is None:
        raise UserError("--out is missing: name a file, or a repository by --triton-repository")
    if triton_plan is not None or triton_ensemble:
        raise UserError("--triton-plan and --triton-ensemble are about a repository: give --triton-repository")
    import torch

    from cyclegan_fast.engine import build_engine
    from cyclegan_fast.engine.export.layers import layers_of
    from cyclegan_fast.memory import memory_errors

    ends = None if shapes is None else read_shapes(shapes)
    used = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    with memory_errors(f"the export of {checkpoint}", used, lambda: "give smaller --shapes, or more memory"):
        build_engine(
            checkpoint,
            out,
            direction=direction,
            precision=precision,
            shapes=ends,
            images=images,
            device=device,
            tensorrt=tensorrt,
            compute_capabilities=compute_capabilities,
            inspect=inspect,
            raw_weights=raw_weights,
        )
    print(_summary(out, precision))
    if inspect:
        print(f"{layers_of(out)}: the compiled layers")


def _export_repository(checkpoint: Path, repository: Path, **options: Any) -> None:
    """Writes models for Triton with the options of `write_triton_repository`, and prints their names."""
    from cyclegan_fast.engine.export.triton_repository import write_triton_repository

    written = write_triton_repository(checkpoint, repository, **options)
    print(f"{repository}: {', '.join(folder.name for folder in written)}")


def _summary(out: Path, precision: str) -> str:
    """The size of a file, and of an engine how far it is from torch."""
    from cyclegan_fast.engine.backends.sidecar import sidecar_of

    size = f"{out}: {out.stat().st_size / 1e6:.1f} MB"
    if out.suffix not in (".onnx", ".pt2", ".engine"):
        return size
    metadata = json.loads(sidecar_of(out).read_text())
    parity, what = metadata["parity"], "its ONNX graph" if metadata.get("compared") == "graph" else "it"
    difference = f"differs by at most {parity['max']:.2g}, {parity['mean']:.2g} on average"
    return f"{size}, {precision}; from torch {what} {difference}"


def read_shapes(words: tuple[str, str, str]) -> Shapes:
    """1x64x64 1x256x256 8x1024x1024 -> Shapes.

    Raises:
        UserError: One of them is no shape.
    """
    from cyclegan_fast.engine import Shapes

    ends = []
    for word in words:
        numbers = word.split("x")
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise UserError(f"--shapes {word}: a shape is images x height x width, such as 1x256x256")
        ends.append((int(numbers[0]), int(numbers[1]), int(numbers[2])))
    return Shapes(*ends)


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process."""
    run_command(export, words)


if __name__ == "__main__":
    main()
