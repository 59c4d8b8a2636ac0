"""build_engine(checkpoint, out): one trained generator as a file that travels, compared with torch before it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from cyclegan_fast.checkpoint import save_reference_network
from cyclegan_fast.data.catalog.quarantine import list_usable_images
from cyclegan_fast.device import resolve_device
from cyclegan_fast.engine.backends.aoti import AotiBackend, aoti_facts, compile_package
from cyclegan_fast.engine.backends.onnx_file import embed_metadata, parse_onnx
from cyclegan_fast.engine.backends.onnxruntime import OnnxBackend
from cyclegan_fast.engine.backends.openvino import OpenVinoBackend
from cyclegan_fast.engine.backends.sidecar import make_sidecar, sidecar_of, weights_digest
from cyclegan_fast.engine.backends.tensorrt import TensorRtBackend, tensorrt_facts
from cyclegan_fast.engine.backends.tensorrt_api import FLAVOURS, STANDARD, FlavourName, import_tensorrt
from cyclegan_fast.engine.backends.tensorrt_rtx import capability_of
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.export.layers import layer_table, layers_of, read_layers
from cyclegan_fast.engine.export.onnx import to_onnx
from cyclegan_fast.engine.export.onnx_precision import typed_onnx
from cyclegan_fast.engine.export.parity import check_parity, image_batches
from cyclegan_fast.engine.export.tensorrt_build import build_plan, check_size, split_profiles
from cyclegan_fast.engine.export.tensorrt_rtx_build import build_rtx_plan, choose_capabilities, rtx_facts
from cyclegan_fast.engine.generator import Generator, dump_safetensors, load_generator
from cyclegan_fast.engine.info import PRECISIONS, Precision
from cyclegan_fast.engine.metadata import Metadata
from cyclegan_fast.engine.shapes import Shape, Shapes
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import write_atomically
from cyclegan_fast.metrics import Direction

log = logging.getLogger(__name__)

# Of a file that is built without --shapes. TensorRT tries its kernels on the largest.
_DEFAULT_MAX: dict[str, Shape] = {".pt2": (64, 4096, 4096), ".engine": (16, 1024, 1024)}
_DEFAULT_OPT: Shape = (1, 256, 256)
_CALIBRATION = 32  # images, from all over the folder


class _Job(NamedTuple):
    generator: Generator
    precision: Precision
    shapes: Shapes | None
    device: torch.device
    sample_images: list[Path]  # of the domain that it translates; maybe none
    capabilities: tuple[str, ...] = ()  # that TensorRT for RTX builds for
    inspect: bool = False

    def metadata(self) -> Metadata:
        """The metadata of every kind of engine file."""
        generator = self.generator
        return generator.metadata() | {
            "in_channels": generator.in_channels,
            "out_channels": generator.out_channels,
            "size_divisor": generator.size_divisor,
            "min_size": generator.min_size,
            "precision": self.precision,
            "weights_sha256": weights_digest(generator.network),
        }


class _Built(NamedTuple):
    content: bytes
    metadata: Metadata
    engine: Engine  # opened from them, or from the graph that they were built from
    layers: str = ""  # a table, if it was asked for


def build_engine(
    checkpoint: Path | str,
    out: Path | str,
    *,
    direction: Direction | None = None,
    precision: Precision = "fp32",
    shapes: Shapes | None = None,
    images: Path | str | None = None,
    device: str = "auto",
    tensorrt: FlavourName = "standard",
    compute_capabilities: Sequence[str] | None = None,
    inspect: bool = False,
    raw_weights: bool = False,
) -> Path:
    """Builds an engine file, or a file of weights, of one generator; the suffix of `out` names the kind.

    Args:
        checkpoint: Whatever `load_generator` takes: a run folder, a checkpoint, a .safetensors or .pth file.
        out: File to write: .onnx (ONNX Runtime and OpenVINO; all shapes), .pt2 (AOTInductor: compiled code for torch,
            on the kind of device that it was built for), .engine (TensorRT, or TensorRT for RTX, in the version that
            built it), .safetensors (weights with their settings), or .pth (as the reference reads it). Beside an engine
            lies its sidecar ``<out>.json``: versions, sha256 of the file and of the weights, shapes, precision, images,
            and how far it is from torch. An .onnx file has all but the first and the last inside it, too.
        direction: AtoB or BtoA, after the folders trainA and trainB; by default what `checkpoint` holds, or AtoB.
        precision: What its convolutions compute in: of .onnx and .engine fp32, fp16, bf16, int8 or fp8, the instance
            norms and both ends in float32; of .pt2 fp32, bf16, or fp16 on a GPU.
        shapes: The batches that a .pt2 or .engine file serves, best at one image of 256x256 by default, and up to 64
            images and 4096x4096 (.pt2), or 16 images and 1024x1024 (.engine). An .onnx file takes all.
        images: A folder with images of the domain that it translates, such as testA; the engine is compared with torch
            on some of them, besides random values, and int8 and fp8 are calibrated on 32 of them; those that a
            quarantine list in it, or in the data folder above it, names are left out. By default rendered scenes stand
            in for the comparison.
        device: What a .pt2 or .engine file is compiled for: auto (CUDA where there is one), cpu or cuda. TensorRT for
            RTX needs none to build.
        tensorrt: What builds an .engine file: standard (TensorRT, for the model of GPU that is here) or rtx (TensorRT
            for RTX, for compute capabilities, on any machine; where no GPU of them is here, the ONNX graph that it was
            built from is compared with torch in its stead).
        compute_capabilities: Of the GPUs that rtx builds for, such as "8.6" and "12.0"; by default all from 8.0 on that
            compute in this precision.
        inspect: Whether rtx writes the compiled layers and their types into ``<out>.layers.md``, too.
        raw_weights: Whether the generator is exported as it is trained, of a checkpoint that has its average (--ema).

    Returns:
        `out`.

    Raises:
        UserError: The suffix is unknown, the checkpoint cannot be used, a library is missing, or the engine differs
            from torch by more than `parity.BOUNDS` allows its precision; nothing is written then.
    """
    out = Path(out)
    if out.suffix not in (*_WEIGHTS, *_ENGINES):
        raise UserError(f"{out}: the name must end in {', '.join((*_ENGINES, *_WEIGHTS))}, which selects the kind")
    if precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if direction not in (None, "AtoB", "BtoA"):
        raise UserError(f"direction must be AtoB or BtoA, got {direction!r}")
    if out.is_dir():
        raise UserError(f"cannot write {out}: it is a folder; name a file")
    _check_tensorrt(out, tensorrt, compute_capabilities, inspect)
    generator = load_generator(Path(checkpoint), direction, raw=raw_weights)
    if out.suffix in _WEIGHTS:
        if precision != "fp32" or shapes is not None or images is not None:
            raise UserError(
                f"{out}: a {out.suffix} file holds the weights as they are: leave out precision, shapes and images"
            )
        _WEIGHTS[out.suffix](generator, out)
        return out
    fitting = None if shapes is None else _check_shapes(shapes, generator)
    sample_images = [] if images is None else list_usable_images(Path(images))
    job = _Job(generator, precision, fitting, resolve_device(device), sample_images)
    if tensorrt == "rtx":
        capabilities = choose_capabilities(precision, compute_capabilities)
        built = _build_tensorrt_rtx(job._replace(capabilities=capabilities, inspect=inspect))
    else:
        built = _ENGINES[out.suffix](job)
    with built.engine:
        parity = check_parity(built.engine, generator, sample_images)
    write_atomically(out, built.content)
    write_atomically(sidecar_of(out), make_sidecar(built.content, built.metadata | {"parity": parity.metadata()}))
    if built.layers:
        write_atomically(layers_of(out), built.layers.encode())
    return out


def _check_tensorrt(out: Path, flavour: str, capabilities: Sequence[str] | None, inspect: bool) -> None:
    """Refuses what only one flavour, or only an .engine file, takes."""
    if flavour not in FLAVOURS:
        raise UserError(f"tensorrt must be {' or '.join(FLAVOURS)}, got {flavour!r}")
    if flavour != "rtx" and (capabilities is not None or inspect):
        what = "compute capabilities are" if capabilities is not None else "the table of layers (inspect) is"
        raise UserError(f"{what} for TensorRT for RTX: add --tensorrt rtx")
    if flavour != STANDARD.name and out.suffix != ".engine":
        raise UserError(f"{out}: TensorRT for RTX builds an .engine file: name one")


def _check_shapes(shapes: Shapes, generator: Generator) -> Shapes:
    """Refuses shapes that are out of order, or that the network does not take."""
    limits = generator.limits
    for shape in shapes:
        if len(shape) != 3 or shape[0] < 1 or not limits.allow_size(*shape[1:]):
            raise UserError(
                f"shapes are images x height x width with sides from {limits.min_size} in steps of "
                f"{limits.size_divisor} pixels, got {'x'.join(map(str, shape))}"
            )
    if len(shapes) != 3 or any(not a <= b <= c for a, b, c in zip(*shapes, strict=True)):
        raise UserError(f"of the shapes the smallest must come first and the largest last, got {tuple(shapes)}")
    return Shapes(*shapes)


def _build_onnx(job: _Job) -> _Built:
    if job.shapes is not None:
        raise UserError("an .onnx file takes batches of every shape: leave the shapes out")
    metadata = job.metadata()
    content = embed_metadata(_typed_graph(job), metadata)
    return _Built(content, metadata, _run_graph(content, metadata, job.precision))


def _run_graph(content: bytes, metadata: Metadata, precision: Precision) -> Engine:
    """Opens a graph on the CPU. ONNX Runtime has no convolutions in bf16 there."""
    file = parse_onnx(content, "the graph", metadata=metadata)
    return OpenVinoBackend(file) if precision == "bf16" else OnnxBackend(file, device="cpu")


def _build_tensorrt(job: _Job) -> _Built:
    if job.device.type != "cuda":
        raise UserError(
            "an .engine file is built on the GPU that it shall run on, and torch sees none: export .onnx, or for RTX "
            "GPUs take --tensorrt rtx, which needs none"
        )
    import_tensorrt()  # before minutes of work
    shapes = job.shapes or _default_shapes(job.generator, _DEFAULT_MAX[".engine"])
    check_size(shapes, job.generator.model.ngf)
    plan = build_plan(_typed_graph(job, for_tensorrt=True), shapes, job.generator.in_channels, job.device)
    metadata = job.metadata() | {"shapes": shapes._asdict(), "compiled": tensorrt_facts(job.device)}
    return _Built(plan, metadata, TensorRtBackend(plan, metadata, name="the engine", device=str(job.device)))


def _build_tensorrt_rtx(job: _Job) -> _Built:
    shapes = job.shapes or _default_shapes(job.generator, _DEFAULT_MAX[".engine"])
    check_size(shapes, job.generator.model.ngf)
    graph = _typed_graph(job, for_tensorrt=True)
    plan, report = build_rtx_plan(graph, shapes, job.generator.in_channels, job.capabilities, inspect=job.inspect)
    metadata = job.metadata() | {"shapes": shapes._asdict(), "compiled": rtx_facts(job.capabilities)}
    layers = layer_table(read_layers(report, graph), split_profiles(shapes)) if job.inspect else ""
    if job.device.type == "cuda" and capability_of(job.device) in job.capabilities:
        engine: Engine = TensorRtBackend(plan, metadata, name="the engine", device=str(job.device))
        return _Built(plan, metadata | {"compared": "engine"}, engine, layers)
    log.info(
        "No GPU that the engine is built for is here: the ONNX graph that it was built from is compared with torch"
    )
    engine = _run_graph(graph, metadata, job.precision)
    return _Built(plan, metadata | {"compared": "graph"}, engine, layers)


def _build_pt2(job: _Job) -> _Built:
    shapes = job.shapes or _default_shapes(job.generator, _DEFAULT_MAX[".pt2"])
    content = compile_package(job.generator, job.precision, shapes, job.device)
    metadata = job.metadata() | {"shapes": shapes._asdict(), "compiled": aoti_facts(job.device)}
    return _Built(content, metadata, AotiBackend(content, metadata, name="the compiled code", device=str(job.device)))


def _typed_graph(job: _Job, *, for_tensorrt: bool = False) -> bytes:
    """The generator as ONNX, in the precision that is asked for."""
    content = to_onnx(job.generator)
    if job.precision == "fp32":
        return content
    file = parse_onnx(content, "the graph", metadata=job.metadata() | {"precision": "fp32"})
    some = job.sample_images[:: max(1, len(job.sample_images) // _CALIBRATION)][:_CALIBRATION]
    calibration = image_batches(OnnxBackend(file, device="cpu"), some)
    return typed_onnx(content, job.precision, calibration, for_tensorrt=for_tensorrt)


def _default_shapes(generator: Generator, largest: Shape) -> Shapes:
    fitting_size = generator.limits.fitting_size
    return Shapes(
        *((images, *fitting_size(height, width)) for images, height, width in ((1, 1, 1), _DEFAULT_OPT, largest))
    )


def _write_safetensors(generator: Generator, out: Path) -> None:
    write_atomically(out, dump_safetensors(generator))


def _write_reference(generator: Generator, out: Path) -> None:
    if "float" in (generator.in_format.depth, generator.out_format.depth):
        raise UserError(
            f"{out}: a .pth file cannot store the range of floating-point images: use .safetensors or .onnx"
        )
    save_reference_network(out, generator.network)


_ENGINES: dict[str, Callable[[_Job], _Built]] = {
    ".onnx": _build_onnx,
    ".pt2": _build_pt2,
    ".engine": _build_tensorrt,
}
_WEIGHTS: dict[str, Callable[[Generator, Path], None]] = {
    ".safetensors": _write_safetensors,
    ".pth": _write_reference,
}
