"""What `pack` stores, `unpack` gives back: the same values, types, order and layouts."""

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cyclegan_fast.checkpoint.tensor_file import tensor_file
from cyclegan_fast.checkpoint.tree import pack, unpack


def round_trip(value):
    tensors = {}
    structure = json.loads(json.dumps(pack(value, tensors), allow_nan=False))
    return unpack(structure, safetensors.torch.load(b"".join(tensor_file(tensors))))


def bytes_of(x):
    return bytes(x.contiguous().view(-1).view(torch.uint8).tolist()) if x.numel() else b""


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
        assert bytes_of(a) == bytes_of(b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert type(key) is type(next(k for k in b if k == key))
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b or (a != a and b != b)
        assert not isinstance(a, float) or a != a or math.copysign(1, a) == math.copysign(1, b)


DTYPES = [
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.int8, torch.int16,
    torch.int32, torch.int64, torch.bool, torch.uint16,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7,), (2, 3, 5, 4)], ids=str)
def test_tensors(dtype, shape):
    x = (torch.rand(shape) * 100).to(dtype)
    assert_same(x, round_trip(x))


def test_special_floats_in_tensors():
    x = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45])
    assert_same(x, round_trip(x))
    assert_same(x.bfloat16(), round_trip(x.bfloat16()))


@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (4, 3, 1, 1), (4, 1, 3, 3), (0, 3, 4, 4)], ids=str)
def test_channels_last_stays_channels_last(shape):
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    assert_same(x, round_trip(x))


def test_a_view_comes_back_with_its_values():
    x = torch.randn(6, 8)
    back = round_trip({"columns": x[:, ::2], "row": x[1], "same": x, "wide": torch.ones(1).expand(5)})
    assert torch.equal(back["columns"], x[:, ::2]) and torch.equal(back["row"], x[1]) and torch.equal(back["same"], x)
    assert torch.equal(back["wide"], torch.ones(5))


def test_numbers_strings_and_their_types():
    value = {
        "large": 2**53 + 1, "larger": -(2**200), "true": True, "one": 1, "one_float": 1.0, "none": None,
        "nan": math.nan, "inf": math.inf, "minus": -math.inf, "zero": -0.0, "tiny": 5e-324, "third": 1 / 3,
        "text": "Zürich 世界 \u0000 \n", "empty": {}, "list": [], "tuple": (), "betas": (0.5, 0.999),
        "nested": [(1, [2.0, {"x": torch.tensor(3)}])], "tensor": "a name", "dict": {"tuple": [1], "float": "nan"},
    }  # fmt: skip
    assert_same(value, round_trip(value))


def test_keys_keep_their_type_and_order():
    assert_same({2: "b", 1: "a", "1": "c"}, round_trip({2: "b", 1: "a", "1": "c"}))


def test_paths_that_look_alike_are_kept_apart():
    value = {"a.b": torch.zeros(2), "a": {"b": torch.ones(2)}, "a.b'": torch.full((2,), 2.0)}
    assert_same(value, round_trip(value))


def test_an_optimizer_state_comes_back_and_continues_alike():
    def trained(steps, net, optimizer):
        for step in range(steps):
            optimizer.zero_grad()
            net(torch.full((1, 3, 8, 8), 0.1 * step)).square().mean().backward()
            optimizer.step()

    nets = [torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    first, second = (torch.optim.Adam(net.parameters(), lr=0.01, fused=True) for net in nets)
    trained(3, nets[0], first)
    trained(3, nets[1], second)
    second.load_state_dict(round_trip(second.state_dict()))
    assert second.state[nets[1].weight]["exp_avg"].stride() == nets[1].weight.stride()
    trained(2, nets[0], first)
    trained(2, nets[1], second)
    assert torch.equal(nets[0].weight, nets[1].weight)


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"bytes", np.zeros(2), {(1, 2): 3}, {True: 1}],
    ids=["object", "set", "bytes", "array", "tuple key", "bool key"],
)
def test_what_cannot_be_stored_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"state\.deep\.0: a value of type"):
        pack({"deep": [value]}, {})


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
nests = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(nests)
def test_any_nest(value):
    assert_same(value, round_trip(value))
