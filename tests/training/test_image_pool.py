from __future__ import annotations

import pytest
import torch

from cyclegan_fast.training.image_pool import ImagePool, MixedSizePool
from tests.plain.step import PlainPool


@pytest.mark.parametrize("kind", [ImagePool, MixedSizePool])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_plain_pool(kind: type, batch: int) -> None:
    pool, plain = kind(5, seed=7), PlainPool(5)
    draws = torch.Generator().manual_seed(7)
    old = 0
    for step in range(40):
        fakes = torch.full((batch, 1, 2, 2), float(step)) + torch.arange(batch).view(-1, 1, 1, 1) / 10
        got = pool.exchange(fakes)
        assert got.equal(plain.query(fakes, torch.rand(batch, 2, generator=draws)))
        old += int((got != fakes).any())
    assert old > 5


@pytest.mark.parametrize("kind", [ImagePool, MixedSizePool])
def test_size_zero_returns_the_fakes_detached(kind: type) -> None:
    fakes = torch.rand(2, 3, 4, 4, requires_grad=True)
    out = kind(0, seed=0).exchange(fakes)
    assert out.equal(fakes)
    assert not out.requires_grad


@pytest.mark.parametrize("kind", [ImagePool, MixedSizePool])
def test_what_it_returned_is_not_changed_by_later_exchanges(kind: type) -> None:
    pool = kind(2, seed=1)
    for _ in range(20):
        fakes = torch.rand(1, 1, 3, 3)
        out = pool.exchange(fakes)
        copy = out.clone()
        pool.exchange(torch.rand(1, 1, 3, 3))
        assert out.equal(copy)


@pytest.mark.parametrize("kind", [ImagePool, MixedSizePool])
def test_resumes_bit_for_bit(kind: type) -> None:
    pool = kind(3, seed=5)
    for _ in range(6):
        pool.exchange(torch.rand(1, 2, 4, 4))
    resumed = kind(3, seed=99)
    resumed.load_state_dict(pool.state_dict())
    for _ in range(10):
        fakes = torch.rand(1, 2, 4, 4)
        assert pool.exchange(fakes).equal(resumed.exchange(fakes))


def test_mixed_sizes() -> None:
    pool = MixedSizePool(2, seed=0)
    sizes = {pool.exchange(torch.rand(1, 3, 8, side)).shape[-1] for side in (4, 8, 12, 16, 20, 24, 28, 32)}
    assert len(sizes) > 1


@pytest.mark.parametrize("kind", [ImagePool, MixedSizePool])
def test_an_image_that_is_not_finite_is_never_kept(kind: type) -> None:
    pool = kind(3, seed=0)
    for step in range(30):
        fakes = torch.full((1, 1, 2, 2), float("nan") if step % 3 == 0 else float(step + 1))
        out = pool.exchange(fakes)
        if step % 3:
            assert out.isfinite().all() and (out > 0).all()
