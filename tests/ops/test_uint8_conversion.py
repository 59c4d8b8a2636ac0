"""to_uint8 and from_uint8: against plain torch in float64, bit by bit where rounding leaves no choice."""

from __future__ import annotations

import itertools

import pytest
import torch
from ops_helpers import LAYOUTS, TOLERANCE
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError
from cyclegan_fast.ops import reference

DTYPES = list(TOLERANCE)
SHAPES = [(1, 3, 8, 16), (2, 3, 5, 7), (2, 1, 9, 11), (1, 4, 33, 40), (2, 6, 1, 1), (1, 3, 1, 2053), (0, 3, 4, 4)]
SPECIAL = [torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0, -1.0, 40.0, -40.0]


def random_images(shape: tuple[int, ...], dtype: torch.dtype, device: str, layout: str) -> Tensor:
    """Normal values, with NaN, infinities, ties and both ends among them."""
    values = torch.randn(shape, dtype=torch.float64)
    flat, special = values.view(-1), torch.tensor(SPECIAL, dtype=torch.float64)
    places = torch.randperm(flat.numel())[: len(special)]
    flat[places] = special[: len(places)]
    return values.to(dtype).to(device).contiguous(memory_format=LAYOUTS[layout])


def random_pixels(n: int, height: int, width: int, c: int, device: str) -> Tensor:
    return torch.randint(0, 256, (n, height, width, c), dtype=torch.uint8, device=device)


def random_placement(pixels: Tensor, crop: tuple[int, int]) -> Tensor:
    """Offsets anywhere inside, mirrored or not; the first and the last image at the two extremes."""
    n, height, width, _ = pixels.shape
    last = torch.tensor([height - crop[0], width - crop[1], 1])
    placement = (torch.rand(n, 3) * (last + 1)).long().clamp(max=last)
    if n > 1:
        placement[0], placement[-1] = 0, last
    return placement.int().to(pixels.device)


def check_to_uint8(shape: tuple[int, ...], dtype: torch.dtype, device: str, layout: str, tanh: bool) -> None:
    x = random_images(shape, dtype, device, layout)
    got = ops.to_uint8(x, tanh=tanh)
    n, c, h, w = shape
    assert got.shape == (n, h, w, c) and got.dtype == torch.uint8 and got.is_contiguous()
    values = x.cpu().double()
    exact = ((values.tanh() if tanh else values) + 1.0) * 127.5
    wanted = exact.nan_to_num(nan=0.0).round().clamp(0.0, 255.0).permute(0, 2, 3, 1)
    exact = exact.nan_to_num(nan=0.0).permute(0, 2, 3, 1)
    # Beside a tie the rounding of v + 1 decides; a tie itself, v = 0, goes to the even level.
    beside_tie = ((exact - exact.floor() - 0.5).abs() < 1e-4) & (values.permute(0, 2, 3, 1) != 0)
    error = (got.cpu().double() - wanted).abs()
    assert (error[~beside_tie] == 0).all() and (error <= 1).all(), (shape, dtype, layout, tanh)


def check_from_uint8(shape: tuple[int, ...], crop: tuple[int, int] | None, dtype: torch.dtype, device: str) -> None:
    pixels = random_pixels(*shape, device)
    placement = None if crop is None else random_placement(pixels, crop)
    for channels_last in (False, True):
        got = ops.from_uint8(pixels, crop=crop, placement=placement, dtype=dtype, channels_last=channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert got.dtype == dtype and got.is_contiguous(memory_format=layout)
        cut = pixels.cpu()
        if crop is not None and placement is not None:
            cut = torch.stack(
                [
                    image[top : top + crop[0], left : left + crop[1]].flip([1] if mirrored else [])
                    for image, (top, left, mirrored) in zip(cut, placement.tolist(), strict=True)
                ]
            )
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        wanted = (cut.permute(0, 3, 1, 2).to(wide) / 127.5 - 1.0).to(dtype)
        assert torch.equal(got.cpu(), wanted), (shape, crop, dtype, channels_last)


CROPS = [
    ((3, 20, 24, 3), (16, 16)),
    ((4, 9, 21, 3), (9, 17)),
    ((3, 40, 300, 3), (5, 275)),
    ((3, 7, 40, 1), (3, 32)),
    ((2, 6, 19, 4), (5, 19)),
    ((3, 5, 9, 7), (1, 1)),
    ((1, 1, 1, 3), (1, 1)),
]


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_levels_match_float64(device: str, dtype: torch.dtype, tanh: bool) -> None:
    for shape, layout in itertools.product(SHAPES, LAYOUTS):
        check_to_uint8(shape, dtype, device, layout, tanh)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_have_the_bits_of_the_division(device: str, dtype: torch.dtype) -> None:
    for shape, crop in CROPS:
        check_from_uint8(shape, crop, dtype, device)
        check_from_uint8(shape, None, dtype, device)
    assert ops.from_uint8(random_pixels(0, 4, 4, 3, device)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512", "avx512_bf16"])
def test_each_instruction_set(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("CYCLEGAN_FAST_ISA", isa)
    if not ops.extension_available() or ops.build_info()["isa"] != isa:
        pytest.skip(f"no extension, or this processor has no {isa}")
    for dtype in DTYPES:
        test_values_have_the_bits_of_the_division("cpu", dtype)
        for tanh in (False, True):
            test_levels_match_float64("cpu", dtype, tanh)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_level_survives_the_way_to_floats_and_back(device: str, dtype: torch.dtype, layout: str) -> None:
    levels = torch.arange(256, dtype=torch.uint8, device=device).reshape(1, 8, 32, 1).expand(2, -1, -1, 3).contiguous()
    values = ops.from_uint8(levels, dtype=dtype, channels_last=layout == "nhwc")
    assert torch.equal(ops.to_uint8(values), levels)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_reference_agrees(device: str, channels_last: bool) -> None:
    pixels = random_pixels(4, 12, 15, 3, device)
    placement = random_placement(pixels, (8, 9))
    for dtype in DTYPES:
        options = {"crop": (8, 9), "placement": placement, "dtype": dtype, "channels_last": channels_last}
        got = ops.from_uint8(pixels, **options)
        with ops.use_reference():
            wanted = ops.from_uint8(pixels, **options)
            levels = ops.to_uint8(wanted)
        assert torch.equal(got, wanted) and got.stride() == wanted.stride()
        assert torch.equal(ops.to_uint8(got), levels)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_for_any_thread_count(layout: str) -> None:
    x = random_images((2, 3, 200, 201), torch.float32, "cpu", layout)
    pixels = random_pixels(3, 200, 201, 3, "cpu")
    placement = random_placement(pixels, (190, 180))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = ops.from_uint8(pixels, crop=(190, 180), placement=placement, channels_last=layout == "nhwc")
            results.append((ops.to_uint8(x, tanh=True), y))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_offset_nobody_can_check_is_moved_inside(device: str) -> None:
    pixels = random_pixels(3, 9, 11, 3, device)
    far = torch.tensor([[-5, 2**31 - 1, 0], [2**31 - 1, -(2**31), 3], [4, 4, 0]], dtype=torch.int32, device=device)
    near = torch.tensor([[0, 3, 0], [5, 0, 1], [4, 3, 0]], dtype=torch.int32, device=device)
    op = torch.ops.cyclegan_fast.from_uint8
    for channels_last in (False, True):
        got, wanted = (op(pixels, 4, 8, place, torch.float32, channels_last) for place in (far, near))
        assert torch.equal(got, wanted)
        assert torch.equal(reference.from_uint8(pixels, 4, 8, far, torch.float32, channels_last), wanted)


def test_levels_carry_no_gradient(device: str) -> None:
    x = torch.zeros(1, 3, 4, 4, device=device, requires_grad=True)
    assert not ops.to_uint8(x).requires_grad


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_and_compile(device: str, layout: str) -> None:
    x = random_images((2, 3, 5, 6), torch.float32, device, layout).nan_to_num()
    pixels = random_pixels(2, 5, 6, 3, device)
    placement = random_placement(pixels, (3, 4))
    last = layout == "nhwc"
    torch.library.opcheck(torch.ops.cyclegan_fast.to_uint8, (x, True))
    torch.library.opcheck(torch.ops.cyclegan_fast.from_uint8, (pixels, 3, 4, placement, torch.bfloat16, last))
    torch.library.opcheck(torch.ops.cyclegan_fast.from_uint8, (pixels, 5, 6, None, torch.float32, last))

    def there_and_back(pixels: Tensor, placement: Tensor) -> Tensor:
        y = ops.from_uint8(pixels, crop=(3, 4), placement=placement, channels_last=last)
        return ops.to_uint8(y * 0.5, tanh=True)

    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(pixels, placement), there_and_back(pixels, placement))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixels": torch.zeros(5, 6, 3, dtype=torch.uint8)}, r"pixels must be uint8 \[N, H, W, C\]"),
        ({"pixels": torch.zeros(2, 5, 6, 3)}, "pixels must be uint8"),
        ({"dtype": torch.int32}, "dtype must be float32"),
        ({"crop": (6, 6)}, r"crop must be from \(1, 1\) to \(5, 6\)"),
        ({"crop": (0, 6)}, "crop must be from"),
        ({"placement": torch.zeros(2, 2, dtype=torch.int32)}, r"placement must be int32 \[2, 3\]"),
        ({"placement": torch.zeros(2, 3)}, "placement must be int32"),
        ({"crop": (3, 4), "placement": torch.tensor([[0, 0, 0], [2, 3, 0]]).int()}, "row 2, column 3 leaves image 1"),
        ({"crop": (3, 4), "placement": torch.tensor([[-1, 0, 0], [0, 0, 0]]).int()}, "row -1, column 0 leaves image 0"),
    ],
)
def test_mistakes_get_one_sentence(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ops.from_uint8(**{"pixels": torch.zeros(2, 5, 6, 3, dtype=torch.uint8), **arguments})


def test_mistakes_of_images_get_one_sentence() -> None:
    with pytest.raises(UserError, match=r"images must have shape \[N, C, H, W\]"):
        ops.to_uint8(torch.zeros(3, 4, 5))
    with pytest.raises(UserError, match="float32, bfloat16, float16 or float64"):
        ops.to_uint8(torch.zeros(1, 3, 4, 5, dtype=torch.uint8))


def test_kernels_refuse_other_strides(device: str) -> None:
    with pytest.raises(UserError, match="images must be contiguous or channels_last"):
        ops.to_uint8(torch.zeros(2, 3, 4, 6, device=device)[:, :, :, ::2])
    with pytest.raises(UserError, match="pixels must be contiguous"):
        ops.from_uint8(random_pixels(2, 4, 6, 3, device)[:, :, ::2])


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("crop", [(64, 64), (33, 47)])
def test_capture_and_replay_equal_eager(layout: str, crop: tuple[int, int]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pixels = random_pixels(4, 80, 90, 3, "cuda")
    placement = random_placement(pixels, crop)

    def run() -> tuple[Tensor, Tensor]:
        y = ops.from_uint8(pixels, crop=crop, placement=placement, channels_last=layout == "nhwc")
        return y, ops.to_uint8(y, tanh=True)

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    placement.copy_(random_placement(pixels, crop))
    pixels.copy_(random_pixels(4, 80, 90, 3, "cuda"))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, run(), strict=True))
