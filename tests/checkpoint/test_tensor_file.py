"""What we write as .safetensors is what the library reads."""

from __future__ import annotations

import json
import math

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cyclegan_fast.checkpoint.tensor_file import tensor_file

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
]  # fmt: skip


def written(tensors: dict[str, Tensor]) -> bytes:
    return b"".join(map(bytes, tensor_file(tensors)))


def bits_of(tensor: Tensor) -> list[int]:
    """Its bytes, row by row: NaN is equal to itself so."""
    return tensor.contiguous().view(-1).view(torch.uint8).tolist() if tensor.numel() else []


def assert_read_back(tensors: dict[str, Tensor]) -> None:
    found = safetensors.torch.load(written(tensors))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits_of(found[name]) == bits_of(tensor), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7,), (2, 3, 5, 4)], ids=str)
def test_every_type_and_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert_read_back({"x": (torch.rand(shape) * 100).to(dtype), "another": torch.tensor([True, False, True])})


def test_every_layout() -> None:
    x = torch.randn(4, 6, 3, 5)
    last = x.to(memory_format=torch.channels_last)
    tensors = {
        "x": x,
        "last": last,
        "turned": x.mT,
        "columns": x[..., ::2],
        "row": x[1, 2],
        "wide": x[:1].expand(9, -1, -1, -1),
    }
    assert_read_back(tensors | {"half": last.bfloat16(), "weight": torch.nn.Parameter(x)})
    assert written({"x": x}) == written({"x": last})


def test_values_that_are_no_numbers_keep_their_bits() -> None:
    payload = torch.tensor([0x7FC00001, -1, 0x7F800000], dtype=torch.int32).view(torch.float32)
    assert_read_back({"odd": payload, "special": torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45])})


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(DTYPES), max_size=9), st.data()
)
def test_any_names_and_types(dtypes: dict[str, torch.dtype], data: st.DataObject) -> None:
    shapes = st.lists(st.integers(0, 4), max_size=3)
    assert_read_back({name: torch.ones(data.draw(shapes), dtype=dtype) for name, dtype in dtypes.items()})


def test_every_tensor_is_aligned_for_a_reader_that_maps_the_file() -> None:
    content = written(
        {"b": torch.ones(3, dtype=torch.uint8), "a": torch.ones(5), "c": torch.ones(1, dtype=torch.int64)}
    )
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    sizes = {"U8": 1, "F32": 4, "I64": 8}
    assert all(entry["data_offsets"][0] % sizes[entry["dtype"]] == 0 for entry in header.values())


def test_a_type_that_the_format_lacks_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"phase: a tensor of torch\.complex64 cannot be stored"):
        written({"phase": torch.ones(2, dtype=torch.complex64)})
