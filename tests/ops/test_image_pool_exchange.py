"""image_pool_exchange: against lists and Python integers, bit for bit; and what its decisions are worth."""

from __future__ import annotations

import itertools

import pytest
import torch
from ops_helpers import LAYOUTS, TOLERANCE
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.errors import UserError
from cyclegan_fast.ops.layout import memory_format_of
from tests.plain.step import PlainPool, splitmix64

SPOILT = [float("nan"), float("inf"), -float("inf")]


class Pool:
    """The tensors of one pool, and its exchange."""

    def __init__(self, size: int, image: tuple[int, ...], dtype: torch.dtype, device: str, layout: str) -> None:
        self.images = torch.full((size, *image), float("nan"), dtype=dtype, device=device)  # no slot is read unfilled
        self.images = self.images.to(memory_format=LAYOUTS[layout])
        self.count, self.drawn = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))

    def exchange(self, fakes: Tensor, seed: int) -> Tensor:
        return ops.image_pool_exchange(self.images, self.count, self.drawn, fakes, seed=seed)


def random_seed() -> int:
    seed = int(torch.randint(2**62, ()))
    print("pool's seed", seed)
    return seed


def check_against_lists(pool: Pool, plain: PlainPool, fakes: Tensor, seed: int) -> None:
    before = fakes.clone()
    got, expected = pool.exchange(fakes, seed), plain.query(before)
    assert fakes.equal(before), "the fakes were changed"
    assert got.equal(expected) and got.is_contiguous(memory_format=memory_format_of(pool.images))
    assert int(pool.count) == len(plain.images)
    assert all(slot.equal(image) for slot, image in zip(pool.images, plain.images, strict=False))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("layouts", list(itertools.product(LAYOUTS, LAYOUTS)), ids="-".join)
def test_equals_lists(device: str, dtype: torch.dtype, layouts: tuple[str, str]) -> None:
    """Odd and aligned images, more images than slots, one slot; the fakes in the pool's layout and in the other."""
    for (size, batch), image in itertools.product(
        [(4, 1), (3, 5), (1, 2)], [(3, 7, 9), (2, 8, 8), (1, 1, 1), (3, 96, 100), (0, 2, 2)]
    ):
        seed = random_seed()
        pool, plain = Pool(size, image, dtype, device, layouts[0]), PlainPool(size, seed)
        for step in range(40):
            fakes = torch.randn(batch, *image).to(device, dtype, memory_format=LAYOUTS[layouts[1]])
            check_against_lists(pool, plain, fakes, seed)
            assert int(pool.drawn) == (step + 1) * batch
        assert plain.swaps > 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_an_image_that_is_not_finite_is_returned_and_never_stored(device: str, dtype: torch.dtype, layout: str) -> None:
    """One value anywhere spoils an image, which takes a decision all the same; the largest number does not."""
    size, image, seed = 2, (3, 65, 131), random_seed()
    pool, draws, kept = Pool(size, image, dtype, device, layout), splitmix64(seed), []
    for step in range(40):
        fakes = torch.randn(2, *image).to(device, dtype, memory_format=LAYOUTS[layout])
        fakes[:, 0, 0, 0] = torch.finfo(dtype).max
        spoilt = step // 2 % 3  # neither, the first, the second
        if spoilt:
            fakes[(spoilt - 1, *(int(torch.randint(n, ())) for n in image))] = SPOILT[step % 3]
        for fake, got, bits, bad in zip(
            fakes, pool.exchange(fakes, seed), draws, (spoilt == 1, spoilt == 2), strict=False
        ):
            slot = bits % 2**32 * size // 2**32
            expected = fake
            if not bad and len(kept) < size:
                kept.append(fake)
            elif not bad and bits >= 2**63:
                expected, kept[slot] = kept[slot], fake
            assert torch.equal(got.nan_to_num(7, 8, 9), expected.nan_to_num(7, 8, 9))
        assert int(pool.count) == len(kept)
        assert torch.equal(pool.images[: len(kept)], torch.stack(kept)) if kept else True
    assert int(pool.drawn) == 80


def test_reference_equals_the_kernel(device: str) -> None:
    seed = random_seed()
    pools = [Pool(3, (2, 5, 7), torch.float32, device, "nhwc") for _ in range(2)]
    for step in range(30):
        fakes = torch.randn(2, 2, 5, 7, device=device)
        if step % 4 == 0:
            fakes[step % 3 % 2, 1, 4, 6] = float("nan")
        got = pools[0].exchange(fakes, seed)
        with ops.use_reference():
            expected = pools[1].exchange(fakes, seed)
        assert torch.equal(got.nan_to_num(9), expected.nan_to_num(9)) and got.stride() == expected.stride()
    for name in ("images", "count", "drawn"):
        assert getattr(pools[0], name).equal(getattr(pools[1], name))


def test_no_image_changes_nothing(device: str) -> None:
    pool = Pool(2, (1, 2, 2), torch.float32, device, "nchw")
    assert pool.exchange(torch.empty(0, 1, 2, 2, device=device), 1).shape == (0, 1, 2, 2)
    with ops.use_reference():
        assert pool.exchange(torch.empty(0, 1, 2, 2, device=device), 1).shape == (0, 1, 2, 2)
    assert int(pool.count) == int(pool.drawn) == 0 and pool.images.isnan().all()


def test_same_bits_for_any_thread_count() -> None:
    seed, before, results = random_seed(), torch.get_num_threads(), []
    batches = torch.randn(12, 4, 3, 128, 130)
    batches[3, 1, 2, 127, 129] = float("nan")
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            pool = Pool(3, (3, 128, 130), torch.float32, "cpu", "nchw")
            results.append(torch.cat([*(pool.exchange(fakes, seed) for fakes in batches), pool.images]).nan_to_num(9))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], result) for result in results[1:])


def test_draws_are_splitmix64() -> None:
    """The numbers published for the seed 1234567, and the plain generator at random places."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert list(itertools.islice(splitmix64(1234567), 4)) == published
    for seed in (1234567, 0, 2**64 - 1, 2**63 + 5, random_seed()):
        expected = list(itertools.islice(splitmix64(seed), 100))
        swaps, slots = ops.image_pool_draws(seed, torch.arange(100), 50)
        assert swaps.tolist() == [bits >= 2**63 for bits in expected]
        assert slots.tolist() == [bits % 2**32 * 50 // 2**32 for bits in expected]


@pytest.mark.parametrize("seed", [0, 1, 86, 2**62])
def test_the_coin_is_fair_and_the_slots_are_even(seed: int) -> None:
    draws, size = 200_000, 50
    swaps, slots = ops.image_pool_draws(seed, torch.arange(draws), size)
    assert abs(swaps.double().mean().item() - 0.5) < 5 * 0.5 / draws**0.5
    for counts in (torch.bincount(slots, minlength=size), torch.bincount(slots[swaps], minlength=size)):
        expected = counts.sum() / size
        assert len(counts) == size
        # Of a chi-square with 49 degrees of freedom: mean 49, standard deviation 9.9.
        assert 10 < ((counts - expected) ** 2 / expected).sum() < 110


@pytest.mark.parametrize("seed", [0, 7, 2 * 86])
def test_neighbouring_seeds_and_numbers_are_uncorrelated(seed: int) -> None:
    """The two pools of a run have seeds that differ by one; a pool's decisions have numbers that do."""
    draws = 200_000
    first, second = (
        torch.stack([swaps * 2.0 - 1, slots / 24.5 - 1]).double()
        for swaps, slots in (ops.image_pool_draws(s, torch.arange(draws), 50) for s in (seed, seed + 1))
    )
    for one, other in ((first, second), (first[:, 1:], first[:, :-1]), (first[:, 1:], second[:, :-1])):
        assert (one @ other.T / one.shape[1]).abs().max() < 5 / draws**0.5
    assert abs((first[0] * first[1]).mean()) < 5 / draws**0.5  # coin and slot of one decision


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(device: str, layout: str) -> None:
    pool = Pool(2, (3, 5, 6), torch.float32, device, layout)
    op = torch.ops.cyclegan_fast.image_pool_exchange
    fakes = torch.randn(3, 3, 5, 6, device=device).to(memory_format=LAYOUTS[layout])
    pool.images.zero_()  # opcheck compares what is mutated
    torch.library.opcheck(op, (pool.images, pool.count, pool.drawn, fakes, 5))


def test_compiles_without_a_break(device: str) -> None:
    eager, compiled = (Pool(2, (3, 4, 5), torch.float32, device, "nhwc") for _ in range(2))

    def exchange(images: Tensor, count: Tensor, drawn: Tensor, fakes: Tensor) -> Tensor:
        return ops.image_pool_exchange(images, count, drawn, fakes * 2, seed=3) + 1

    in_graph = torch.compile(exchange, fullgraph=True, backend="aot_eager")
    for _ in range(12):
        fakes = torch.randn(2, 3, 4, 5, device=device)
        got = in_graph(compiled.images, compiled.count, compiled.drawn, fakes)
        assert torch.equal(got, exchange(eager.images, eager.count, eager.drawn, fakes))
    assert int(compiled.drawn) == 24 and torch.equal(compiled.images, eager.images)


def test_no_gradient_flows(device: str) -> None:
    pool = Pool(2, (1, 2, 2), torch.float32, device, "nchw")
    assert not pool.exchange(torch.rand(1, 1, 2, 2, device=device, requires_grad=True), 0).requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": torch.ones(0, 3, 2, 2)}, r"S > 0"),
        ({"pool": torch.ones(3, 2, 2)}, r"pool must have shape \[S, C, H, W\]"),
        ({"fakes": torch.ones(1, 3, 2, 3)}, r"fakes must have shape \[N, 3, 2, 2\]"),
        ({"fakes": torch.ones(3, 2, 2)}, "fakes must have shape"),
        ({"fakes": torch.ones(1, 3, 2, 2, dtype=torch.float64)}, "fakes must be torch.float32"),
        ({"count": torch.zeros(1, dtype=torch.int64)}, "count must be a scalar torch.int64"),
        ({"drawn": torch.zeros(())}, "drawn must be a scalar torch.int64"),
    ],
)
def test_mistakes_get_one_sentence(change: dict[str, Tensor], message: str) -> None:
    scalar = torch.zeros((), dtype=torch.int64)
    arguments = {
        "pool": torch.ones(2, 3, 2, 2),
        "count": scalar,
        "drawn": scalar.clone(),
        "fakes": torch.ones(1, 3, 2, 2),
    }
    with pytest.raises(UserError, match=message):
        ops.image_pool_exchange(**(arguments | change), seed=0)


def test_kernel_refuses_a_pool_with_other_strides(device: str) -> None:
    scalar = torch.zeros((), dtype=torch.int64, device=device)
    pool = torch.zeros(2, 3, 4, 10, device=device)[..., ::2]
    with pytest.raises(UserError, match="pool must be contiguous or channels_last"):
        ops.image_pool_exchange(pool, scalar, scalar.clone(), torch.zeros(1, 3, 4, 5, device=device), seed=0)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_capture_and_replay_equal_eager(layout: str) -> None:
    """Every replay must draw anew, and see the images that are there then."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    captured, eager = (Pool(4, (3, 256, 256), torch.float32, "cuda", layout) for _ in range(2))
    fakes = torch.randn(2, 3, 256, 256, device="cuda").to(memory_format=LAYOUTS[layout])
    assert torch.equal(captured.exchange(fakes, 1), eager.exchange(fakes, 1))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        returned = captured.exchange(fakes, 1)
    old = 0
    for step in range(40):
        fakes.copy_(torch.randn_like(fakes))
        if step % 5 == 0:
            fakes[step % 2, 2, 255, 255] = float("nan")
        graph.replay()
        assert torch.equal(returned.nan_to_num(9), eager.exchange(fakes, 1).nan_to_num(9)), f"step {step}"
        old += int((returned != fakes).flatten(1).any(1).sum())
    assert old > 10 + 8  # a NaN differs from itself
    for name in ("images", "count", "drawn"):
        assert getattr(captured, name).equal(getattr(eager, name))
