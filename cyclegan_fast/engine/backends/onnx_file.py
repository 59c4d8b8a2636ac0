"""An ONNX file before anything runs it: its graph's input and output, its metadata, and where its weights lie.

Files of any maker are taken, as long as they have one image in and one image out. What we export carries its metadata
in the model's metadata_props, so that it needs no sidecar.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.documents import shown
from cyclegan_fast.engine.backends.external_runtime import first_line
from cyclegan_fast.engine.backends.sidecar import how_to_rebuild, read_sidecar
from cyclegan_fast.engine.info import EngineInfo, Precision
from cyclegan_fast.engine.metadata import (
    DEFAULT_MIN_SIZE,
    DEFAULT_SIZE_DIVISOR,
    METADATA_KEY,
    Metadata,
    check_direction,
    engine_info,
    read_engine_metadata,
)
from cyclegan_fast.engine.shapes import ShapeLimits, Shapes
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.metrics import Direction

_FREE = 2**20  # images, or pixels of a side, where a graph leaves them free but fixes others
_USUAL_SIDE = 256
_MAX_CHANNELS = 16  # below which a fixed last size is taken for channels
_RULE = "a generator has one input and one output, [N, C, H, W] or [N, H, W, C] in float32 or float16"


@dataclass(frozen=True)
class ImagePort:
    """The input or the output of a graph."""

    name: str
    dtype: np.dtype
    channels_last: bool
    """[N, H, W, C] instead of [N, C, H, W]."""
    channels: int
    sizes: tuple[int | None, int | None, int | None]
    """Images, height and width; None where they are free."""

    def from_batch(self, batch: Tensor) -> np.ndarray:
        """[N, C, H, W] on any device -> what the graph takes."""
        if self.channels_last:
            batch = batch.permute(0, 2, 3, 1)
        return batch.float().cpu().contiguous().numpy().astype(self.dtype, copy=False)

    def to_batch(self, array: np.ndarray) -> Tensor:
        """What the graph returned -> float32 [N, C, H, W]."""
        batch = torch.from_numpy(np.asarray(array, np.float32))
        return batch.permute(0, 3, 1, 2).contiguous() if self.channels_last and batch.dim() == 4 else batch


@dataclass(frozen=True)
class OnnxFile:
    """What is known of an ONNX file without running it."""

    name: str
    """Where it came from, for messages."""
    model: bytes | Path
    """For a runtime: the content, or the path of a file whose weights lie in further files beside it."""
    input: ImagePort
    output: ImagePort
    metadata: Metadata
    """Empty of a file that was not exported by this package."""

    @property
    def precision(self) -> Precision:
        """What it computes in; of other makers' files, by the type of their input."""
        return self.metadata.get("precision", "fp16" if self.input.dtype == np.float16 else "fp32")

    def failure(self, batch: Tensor, error: Exception) -> UserError:
        """What to raise when a runtime fails on a batch."""
        message = f"{self.name} failed on a batch of shape {list(batch.shape)}: {first_line(error)}"
        if not self.metadata:
            message += f"; its network may need sides that are multiples of 32 or more: try {_USUAL_SIDE}x{_USUAL_SIDE}"
        return UserError(message)

    def info(self, device: str, threads: int | None, precision: Precision | None = None) -> EngineInfo:
        """About the engine that runs it on `device`, in `precision` if that is not the file's own."""
        if self.metadata:
            return engine_info(self.metadata, name=self.name, device=device, precision=precision, threads=threads)
        return EngineInfo(
            name=self.name,
            device=device,
            precision=precision or self.precision,
            direction=None,
            in_format=PixelFormat(channels=self.input.channels),
            out_format=PixelFormat(channels=self.output.channels),
            limits=_limits(self.input.sizes),
            threads=threads,
        )


def load_onnx_file(path: Path, direction: Direction | None = None) -> OnnxFile:
    """Reads an ONNX file; where it has a sidecar, that is read and compared before the file is parsed.

    Raises:
        UserError: The file is damaged, differs from its sidecar, holds another direction than the one asked for, lacks
            its weights, or is not that of a generator.
    """
    content = path.read_bytes()
    sidecar = read_sidecar(path, content, direction)
    file = parse_onnx(content, path.name, folder=path.parent, metadata=sidecar or None)
    if file.metadata:
        check_direction(direction, file.metadata["direction"], path)
    return file


def parse_onnx(content: bytes, name: str, *, folder: Path | None = None, metadata: Metadata | None = None) -> OnnxFile:
    """Reads the content of an ONNX file.

    Args:
        content: The file's bytes.
        name: Where it came from: the file's name, if it lies in `folder`.
        folder: Where weights may lie beside it.
        metadata: Of its sidecar; by default what the file itself holds.

    Raises:
        UserError: See `load_onnx_file`.
    """
    onnx = import_onnx()
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of protobuf
        raise UserError(f"{name} is damaged, or not an ONNX file: {first_line(error)}") from error
    if metadata is None:
        metadata = _embedded_metadata(model, name)
    source: bytes | Path = content
    if external := _external_files(model):
        if folder is None:
            raise UserError(f"{name} keeps its weights in {shown(external[0])}, beside the file: give the file's path")
        _check_external(external, folder, name)
        source = folder / name
    return OnnxFile(name, source, *_ports(model, name), metadata)


def embed_metadata(content: bytes, metadata: Metadata) -> bytes:
    """An ONNX file's content with the metadata that `load_onnx_file` finds in it."""
    onnx = import_onnx()
    model = onnx.load_model_from_string(content)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    return model.SerializeToString()


def import_onnx() -> Any:
    """The package onnx.

    Raises:
        UserError: It is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError("an .onnx file needs more packages: pip install 'cyclegan-fast[onnx]'") from error
    return onnx


def _embedded_metadata(model: Any, name: str) -> Metadata:
    stored = {entry.key: entry.value for entry in model.metadata_props}.get(METADATA_KEY)
    if stored is None:
        return {}
    try:
        return read_engine_metadata(stored, name)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{name} is damaged: its metadata cannot be read; {how_to_rebuild(name)}") from error


def _external_files(model: Any) -> list[str]:
    """The files that hold weights, as the model names them; every tensor of every graph inside it is asked."""
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    found = {
        entry.value
        for tensor in _get_all_tensors(model)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sorted(found)


def _check_external(names: list[str], folder: Path, name: str) -> None:
    for external in names:
        stored = f"{name} keeps its weights in {shown(external)}"
        windows, posix = PureWindowsPath(external), PurePosixPath(external)
        if windows.anchor or posix.is_absolute() or ".." in (*windows.parts, *posix.parts):
            raise UserError(f"{stored}, outside its own folder: not read, for safety")
        if not _is_file(folder / external):
            raise MissingFileError(f"{stored}, which is missing: put that file beside it")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long, for example
        return False


def _ports(model: Any, name: str) -> tuple[ImagePort, ImagePort]:
    """The input and the output of a graph; shapes that it does not name are inferred."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]  # old files list their weights, too
    if len(inputs) != 1 or len(graph.output) != 1:
        raise UserError(f"{name}: inputs: {len(inputs)}, outputs: {len(graph.output)}; {_RULE}")
    input, output = _port(inputs[0], name), _port(graph.output[0], name)
    if output is None:
        try:
            inferred = import_onnx().shape_inference.infer_shapes(model)
        except Exception as error:  # onnx raises types of its own
            raise UserError(f"{name} is damaged, or not an ONNX file: {first_line(error)}") from error
        output = _port(inferred.graph.output[0], name)
    if input is None or output is None:
        raise UserError(f"{name} does not fix the channels of its input and output; {_RULE}")
    return input, output


def _port(value: Any, name: str) -> ImagePort | None:
    """None if its number of channels is unknown."""
    types, tensor = import_onnx().TensorProto, value.type.tensor_type
    if tensor.elem_type not in (types.FLOAT, types.FLOAT16):
        raise UserError(f"{name}: {shown(value.name)} is no image; {_RULE}")
    if tensor.HasField("shape") and len(tensor.shape.dim) != 4:
        raise UserError(f"{name}: {shown(value.name)} is no image; {_RULE}")
    sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim] or [None] * 4
    n, first, second, third = sizes
    channels_last = third is not None and (first is None or third < min(first, _MAX_CHANNELS))
    channels = third if channels_last else first
    if channels is None:
        return None
    dtype = np.dtype(np.float16 if tensor.elem_type == types.FLOAT16 else np.float32)
    sides = (first, second) if channels_last else (second, third)
    return ImagePort(value.name, dtype, channels_last, channels, (n, *sides))


def _limits(sizes: tuple[int | None, int | None, int | None]) -> ShapeLimits:
    """What a graph of another maker takes, whose free sides must suit a network that we do not know."""
    n, height, width = sizes
    shapes = None
    if any(size is not None for size in sizes):
        shapes = Shapes(
            (n or 1, height or DEFAULT_MIN_SIZE, width or DEFAULT_MIN_SIZE),
            (n or 1, height or _USUAL_SIDE, width or _USUAL_SIDE),
            (n or _FREE, height or _FREE, width or _FREE),
        )
    return ShapeLimits(size_divisor=DEFAULT_SIZE_DIVISOR, min_size=DEFAULT_MIN_SIZE, shapes=shapes)
