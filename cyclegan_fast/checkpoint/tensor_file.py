"""The .safetensors format, written piece by piece.

    8 bytes       length of the header, little-endian
    the header    JSON, padded to 8 bytes: {name: {"dtype": "F32", "shape": [64, 3], "data_offsets": [begin, end]}}
    the tensors   row-major, one after the other

The library's `save` turns every tensor into bytes and then all of them into one file in memory, with the interpreter
locked: a training beside it would stand still meanwhile, and need room for two more copies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
}  # fmt: skip
_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}  # types of numpy's, by their bytes


def tensor_file(tensors: Tensors) -> Iterator[bytes | memoryview]:
    """Yields the content of a .safetensors file in pieces, of which each is valid until the next one is asked for.

    Args:
        tensors: Of any layout, on any device; one at a time is copied where it is not contiguous on the CPU.

    Raises:
        TypeError: A tensor of a type that the format does not have, or none of ours.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # so that each of them is aligned
    header, end = {}, 0
    for name in order:
        tensor, begin = tensors[name], end
        end += tensor.nbytes
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name}: a tensor of {tensor.dtype} cannot be stored in a checkpoint")
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    yield from (_row_major(tensors[name]) for name in order if tensors[name].numel())


def _row_major(tensor: Tensor) -> memoryview:
    """The bytes of a tensor that is not empty. By numpy: torch would keep a team of threads for the one that writes."""
    bits = tensor.detach().cpu().view(_BITS[tensor.itemsize])
    return np.ascontiguousarray(bits.numpy()).data.cast("B")
