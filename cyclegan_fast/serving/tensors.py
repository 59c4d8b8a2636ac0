"""Tensors in KServe's protocol, version 2: JSON, and its extension with binary data behind the JSON.

https://github.com/kserve/open-inference-protocol; an array is sent as numbers in JSON, or as its bytes (little-endian,
row by row) after the JSON, whose length is then in the header Inference-Header-Content-Length.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.documents import DocumentError, parse_json
from cyclegan_fast.engine import Engine
from cyclegan_fast.serving.faults import RequestError

HEADER_LENGTH = "Inference-Header-Content-Length"
INPUT, OUTPUT = "image", "translated"  # as the ONNX files name them
DATA_TYPES = {"FP32": np.float32, "FP16": np.float16, "FP64": np.float64, "UINT8": np.uint8, "UINT16": np.uint16}
_NAMES = {np.dtype(kind): name for name, kind in DATA_TYPES.items()}
_MAX_DIMENSIONS = 8


class InferRequest(NamedTuple):
    """A request, as far as it is about one tensor in and one out."""

    id: str
    images: Tensor
    """[N, C, H, W] of one of `DATA_TYPES`; not checked any further."""
    binary_output: bool


def model_metadata(name: str, version: str, engine: Engine) -> dict[str, Any]:
    """What a model takes and returns."""

    def tensor(title: str, channels: int) -> dict[str, Any]:
        return {"name": title, "datatype": "FP32", "shape": [-1, channels, -1, -1]}

    return {
        "name": name,
        "versions": [version],
        "platform": f"cyclegan_fast_{type(engine).__name__.removesuffix('Backend').lower()}",
        "inputs": [tensor(INPUT, engine.in_channels)],
        "outputs": [tensor(OUTPUT, engine.out_channels)],
    }


def json_length(header: str | None, size: int) -> int:
    """Bytes of the JSON at the begin of a body of `size`, by the header about it.

    Raises:
        RequestError: The header is no such number.
    """
    if header is None:
        return size
    if not header.isdecimal() or len(header) > 12 or int(header) > size:
        raise _bad(f"{HEADER_LENGTH} must be the length of the JSON in bytes, at most the body's {size}")
    return int(header)


def read_request(body: bytes, length: int) -> InferRequest:
    """Reads the body of a request, which begins with so many bytes of JSON.

    Raises:
        RequestError: It is not as the protocol says.
    """
    try:
        document = parse_json(body[:length])
    except DocumentError as error:
        raise _bad(f"the body is no JSON: {error}") from error
    inputs = _get(document, "inputs", list)
    if len(inputs) != 1:
        raise _bad(f"the model has one input, {INPUT!r}; got {len(inputs)}")
    (tensor,) = inputs
    name = _get(tensor, "name", str)
    if name != INPUT:
        raise _bad(f"the input is called {INPUT!r}, got {name[:100]!r}")
    return InferRequest(
        _get(document, "id", str, ""), torch.from_numpy(_array(tensor, body[length:])), _wants_binary(document)
    )


def write_response(result: Tensor, *, name: str, version: str, id: str, binary: bool) -> tuple[bytes, dict[str, str]]:
    """The body of a response and its headers."""
    array = np.ascontiguousarray(result.numpy())
    output: dict[str, Any] = {"name": OUTPUT, "datatype": _NAMES[array.dtype], "shape": list(array.shape)}
    document = {"model_name": name, "model_version": version, "id": id, "outputs": [output]}
    if not binary:
        output["data"] = array.ravel().tolist()
        return json.dumps(document).encode(), {"Content-Type": "application/json"}
    data = _little_endian(array).tobytes()
    output["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps(document).encode()
    return head + data, {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}


def _array(tensor: Any, binary: bytes) -> np.ndarray:
    """The array of an input tensor."""
    kind, shape = _get(tensor, "datatype", str), _get(tensor, "shape", list)
    if kind not in DATA_TYPES:
        raise _bad(f"the datatype must be one of {', '.join(DATA_TYPES)}, got {kind[:100]!r}")
    if len(shape) > _MAX_DIMENSIONS or not all(isinstance(n, int) and 0 <= n < 2**31 for n in shape):
        raise _bad("the shape must be a list of a few whole numbers: [images, channels, height, width]")
    count, dtype = math.prod(shape), np.dtype(DATA_TYPES[kind])
    size = _get(_get(tensor, "parameters", dict, {}), "binary_data_size", int, None)
    if size is None:
        return _from_numbers(_get(tensor, "data", list), dtype, count).reshape(shape)
    if size != len(binary) or size != count * dtype.itemsize:
        raise _bad(f"{kind} {shape} has {count * dtype.itemsize} bytes; binary_data_size is {size}, got {len(binary)}")
    return np.frombuffer(binary, dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def _from_numbers(data: list[Any], dtype: np.dtype, count: int) -> np.ndarray:
    """Numbers in a flat list, or in nested ones."""
    try:
        values = np.asarray(data, np.float64)
        with np.errstate(all="ignore"):
            array = values.astype(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise _bad("data must be a list of numbers, row by row") from error
    if array.size != count:
        raise _bad(f"data has {array.size} numbers, and the shape says {count}")
    if dtype.kind == "u" and not np.array_equal(array, values):
        raise _bad(f"data of type {_NAMES[dtype]} must be whole numbers from 0 to {np.iinfo(dtype).max}")
    return array


def _wants_binary(document: Any) -> bool:
    wanted = _get(_get(document, "parameters", dict, {}), "binary_data_output", bool, False)
    outputs = _get(document, "outputs", list, [])
    for output in outputs:
        name = _get(output, "name", str)
        if name != OUTPUT:
            raise _bad(f"the output is called {OUTPUT!r}, got {name[:100]!r}")
        wanted = _get(_get(output, "parameters", dict, {}), "binary_data", bool, wanted)
    return wanted


_REQUIRED: Any = object()


def _get(document: Any, key: str, kind: type, default: Any = _REQUIRED) -> Any:
    """A value of a JSON object.

    Raises:
        RequestError: It is missing, or of another type.
    """
    value = document.get(key, default) if isinstance(document, dict) else _REQUIRED
    if value is default and default is not _REQUIRED:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _bad(f"{key!r} is missing, or no {_KINDS[kind]}")
    return value


_KINDS = {list: "list", dict: "object", str: "text", int: "whole number", bool: "true or false"}


def _little_endian(array: np.ndarray) -> np.ndarray:
    return array if sys.byteorder == "little" else array.astype(array.dtype.newbyteorder("<"))


def _bad(message: str) -> RequestError:
    return RequestError(400, message)
