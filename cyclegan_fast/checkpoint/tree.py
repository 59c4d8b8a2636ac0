"""A nest of dictionaries, lists, numbers and tensors as JSON and a flat table of tensors, without loss and pickle.

In the JSON, None, booleans, integers, strings, finite floats and lists stand for themselves; the rest is an object of
one key: ``{"dict": [[key, value], ...]}``, ``{"tuple": [...]}``, ``{"float": "nan"}`` and ``{"tensor": name}``. A
tensor that is not contiguous (such as channels_last) has its ``"strides"`` beside it: fused optimisers need the moments
laid out as the weights are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.documents import DocumentError, Number, check, shown


def pack(value: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """Returns `value` as JSON can hold it, and adds its tensors to `tensors`, as they are and where they are.

    Raises:
        TypeError: A type that is not listed at this file's head; the message has its path.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Tensor):
        return _pack_tensor(value, tensors, path)
    if isinstance(value, list | tuple):
        items = [pack(item, tensors, f"{path}.{i}") for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict) and all(type(key) in (str, int) for key in value):
        return {"dict": [[key, pack(item, tensors, f"{path}.{key}")] for key, item in value.items()]}
    raise TypeError(f"{path}: a value of type {type(value).__name__} cannot be stored in a checkpoint")


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `pack`. Tensors come back on the CPU.

    Raises:
        DocumentError: `pack` has made no such thing.
    """
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    try:
        if "dict" in packed:
            return {key: unpack(item, tensors) for key, item in packed["dict"]}
        if "tuple" in packed:
            return tuple(unpack(item, tensors) for item in packed["tuple"])
        if "float" in packed:
            return float(packed["float"])
        tensor = tensors[packed["tensor"]]
        return _laid_out(tensor, packed["strides"]) if "strides" in packed else tensor
    except DocumentError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise DocumentError(f"{shown(packed)} stands for no value") from error


def _laid_out(tensor: Tensor, strides: Any) -> Tensor:
    """A copy with these strides, which are those of a dense tensor: more would reserve as much memory as they say."""
    check(strides, [Number(0)], "strides")
    steps = sorted((stride, size) for stride, size in zip(strides, tensor.shape, strict=True) if size > 1)
    expected = 1
    for stride, size in steps:
        if stride != expected:
            raise DocumentError(f"strides {shown(strides)} are not those of a tensor of shape {list(tensor.shape)}")
        expected *= size
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def _pack_tensor(tensor: Tensor, tensors: dict[str, Tensor], path: str) -> dict[str, Any]:
    name = path
    while name in tensors:  # {"a.b": x} and {"a": {"b": x}} have the same path
        name += "'"
    tensors[name] = tensor.detach()
    strides = dense_strides(tensor)
    row_major = torch.empty(tensor.shape, device="meta").stride()
    return {"tensor": name} if strides == row_major else {"tensor": name, "strides": list(strides)}


def dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """The strides of a tensor without gaps whose dimensions lie in memory in the same order."""
    return torch.empty_like(tensor, device="meta").stride()
