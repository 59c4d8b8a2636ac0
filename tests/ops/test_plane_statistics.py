"""plane_statistics and merge_statistics: against float64, and as what instance_norm_act takes."""

from __future__ import annotations

import pytest
import torch
from norm_helpers import own_statistics
from ops_helpers import LAYOUTS, TOLERANCE, assert_close, random_tensor
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError

DTYPES = list(TOLERANCE)
SHAPES = [(2, 5, 7, 9), (1, 16, 8, 8), (1, 37, 4, 17), (3, 4, 1, 1), (2, 3, 1, 11), (2, 130, 9, 8), (0, 4, 6, 6)]


def check(shape: tuple[int, ...], dtype: torch.dtype, device: str, layout: str, mean: float = 0.0) -> None:
    x = random_tensor(shape, dtype, device, layout, mean)
    got = ops.plane_statistics(x)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and not got.requires_grad
    wide = x.detach().double().contiguous()
    average = wide.mean((2, 3), keepdim=True)
    squares = (wide - average).square().sum((2, 3))
    relative = torch.stack((average[..., 0, 0], torch.zeros_like(squares), squares)) / (1 + abs(mean))
    assert_close(got / (1 + abs(mean)), relative, 1e-13 if dtype == torch.float64 else 1e-5, f"{shape}")
    assert not got[1].any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_float64(device: str, dtype: torch.dtype, layout: str) -> None:
    for shape in SHAPES:
        check(shape, dtype, device, layout)
    for shape in [(1, 3, 40, 37), (1, 64, 33, 32)]:
        check(shape, dtype, device, layout, mean=100.0)


@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512", "avx512_bf16"])
def test_each_instruction_set(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("CYCLEGAN_FAST_ISA", isa)
    if not ops.extension_available() or ops.build_info()["isa"] != isa:
        pytest.skip(f"no extension, or this processor has no {isa}")
    for dtype in DTYPES:
        for layout in LAYOUTS:
            test_matches_float64("cpu", dtype, layout)


def test_reference_agrees(device: str) -> None:
    x = torch.randn(2, 3, 8, 9, device=device)
    with ops.use_reference():
        expected = ops.plane_statistics(x)
    assert_close(ops.plane_statistics(x), expected, 1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_for_any_thread_count(layout: str) -> None:
    x = random_tensor((2, 70, 40, 40), torch.float32, "cpu", layout)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(ops.plane_statistics(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_and_compile(device: str, layout: str) -> None:
    x = random_tensor((2, 3, 5, 6), torch.float32, device, layout)
    torch.library.opcheck(torch.ops.cyclegan_fast.plane_statistics, (x.detach(),))
    compiled = torch.compile(ops.plane_statistics, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), ops.plane_statistics(x))


def in_tiles(x: Tensor) -> list[Tensor]:
    """Pieces of unlike sizes that cover x and do not overlap."""
    return [piece.contiguous() for row in x.split([3, 10, 8], 2) for piece in row.split([9, 1, 7], 3)]


@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
def test_tiles_reproduce_the_image(device: str, dtype: torch.dtype, limit: float, mean: float) -> None:
    x = random_tensor((2, 5, 21, 17), dtype, device, "nchw", mean).detach()
    tiles = in_tiles(x)
    counts = [tile.shape[2] * tile.shape[3] for tile in tiles]
    assert sum(counts) == 21 * 17
    for statistics_of in (ops.plane_statistics, own_statistics):  # about the mean, and about other shifts
        merged = ops.merge_statistics([statistics_of(tile) for tile in tiles], counts)
        assert merged.dtype == dtype
        given = {"statistics": merged, "statistics_count": sum(counts), "constant_statistics": True}
        expected = in_tiles(ops.instance_norm_act(x, activation="leaky_relu"))
        for tile, wanted in zip(tiles, expected, strict=True):
            got = ops.instance_norm_act(tile, activation="leaky_relu", **given)
            assert_close(got, wanted, limit * (1 + mean), "a tile")


def test_merging_in_any_grouping_is_the_same(device: str) -> None:
    parts = [
        own_statistics(torch.randn(2, 3, 4, size, dtype=torch.float64, device=device) + size) for size in (2, 5, 9)
    ]
    counts = [8, 20, 36]
    whole = ops.merge_statistics(parts, counts)
    pair = ops.merge_statistics(parts[:2], counts[:2])
    assert_close(ops.merge_statistics([pair, parts[2]], [28, 36]), whole, 1e-13)
    once = ops.merge_statistics(parts[:1], counts[:1])
    assert_close(ops.merge_statistics([once], counts[:1]), once, 1e-15)


@pytest.mark.parametrize(
    ("parts", "counts", "message"),
    [
        ([], [], "0 parts"),
        ([torch.ones(3, 1, 2)], [4, 4], "1 parts need as many counts"),
        ([torch.ones(3, 1, 2)], [0], "counts above 0"),
        ([torch.ones(3, 1, 2), torch.ones(3, 1, 3)], [4, 4], "alike in shape"),
        ([torch.ones(3, 1, 2), torch.ones(3, 1, 2).double()], [4, 4], "alike in shape, type"),
        ([torch.ones(2, 1, 2)], [4], r"parts must be \[3, N, C\]"),
    ],
)
def test_merging_mistakes_get_one_sentence(parts: list[Tensor], counts: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ops.merge_statistics(parts, counts)


def test_mistakes_get_one_sentence(device: str) -> None:
    for wrong in (torch.ones(3, 4, 5, device=device), torch.ones(1, 3, 0, 5, device=device)):
        with pytest.raises(UserError, match="x must have shape"):
            ops.plane_statistics(wrong)
    with pytest.raises(UserError, match="x must be contiguous or channels_last"):
        ops.plane_statistics(torch.randn(2, 3, 4, 6, device=device)[:, :, :, ::2])
    with pytest.raises(UserError, match="float32, bfloat16, float16 or float64"):
        ops.plane_statistics(torch.ones(2, 3, 4, 6, device=device, dtype=torch.int32))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_planes_match_float64(layout: str, dtype: torch.dtype) -> None:
    if not (torch.cuda.is_available() and ops.extension_available() and ops.build_info()["cuda_archs"]):
        pytest.skip("no CUDA device, or the extension was built without CUDA")
    for shape in [(1, 64, 31, 31), (8, 64, 31, 31), (1, 256, 64, 64), (8, 256, 64, 64), (1, 64, 256, 256)]:
        check(shape, dtype, "cuda", layout)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 64, 256, 256), (8, 64, 31, 31)], ids=str)
def test_capture_and_replay_equal_eager(layout: str, shape: tuple[int, ...]) -> None:
    if not (torch.cuda.is_available() and ops.extension_available() and ops.build_info()["cuda_archs"]):
        pytest.skip("no CUDA device, or the extension was built without CUDA")
    x = random_tensor(shape, torch.bfloat16, "cuda", layout).detach()
    ops.plane_statistics(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        statistics = ops.plane_statistics(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(statistics, ops.plane_statistics(x))
