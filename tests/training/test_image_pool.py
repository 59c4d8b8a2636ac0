from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cyclegan_fast.checkpoint import native
from cyclegan_fast.config import TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.training.image_pool import ImagePool, MixedSizePool
from tests.plain.step import PlainPool

BOTH = pytest.mark.parametrize("kind", [ImagePool, MixedSizePool])


@BOTH
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("seed", [0, 7, 2**63 + 1])
def test_equals_the_plain_pool(kind: type, batch: int, seed: int) -> None:
    pool, plain = kind(5, seed), PlainPool(5, seed)
    old = 0
    for step in range(40):
        fakes = torch.full((batch, 1, 2, 2), float(step)) + torch.arange(batch).view(-1, 1, 1, 1) / 10
        got = pool.exchange(fakes)
        assert got.equal(plain.query(fakes))
        old += int((got != fakes).any())
    assert old > 5


@BOTH
def test_size_zero_returns_the_fakes_detached(kind: type) -> None:
    fakes = torch.rand(2, 3, 4, 4, requires_grad=True)
    out = kind(0, seed=0).exchange(fakes)
    assert out.equal(fakes)
    assert not out.requires_grad


@BOTH
def test_what_it_returned_is_not_changed_by_later_exchanges(kind: type) -> None:
    pool = kind(2, seed=1)
    for _ in range(20):
        fakes = torch.rand(1, 1, 3, 3)
        out = pool.exchange(fakes)
        copy = out.clone()
        pool.exchange(torch.rand(1, 1, 3, 3))
        assert out.equal(copy)


@BOTH
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_checkpoint_continues_bit_for_bit(kind: type, layout: torch.memory_format, tmp_path: Path) -> None:
    pool, resumed = kind(3, seed=5), kind(3, seed=99)
    for _ in range(6):
        pool.exchange(torch.rand(1, 2, 4, 4).to(memory_format=layout))
    state = {"pool": pool.state_dict()}
    native.save_checkpoint(
        tmp_path, 6, networks={"net": nn.Linear(1, 1)}, config=TrainConfig(), progress={}, state=state
    )
    resumed.load_state_dict(native.load_state(tmp_path)["pool"])
    old = 0
    for _ in range(10):
        fakes = torch.rand(1, 2, 4, 4).to(memory_format=layout)
        expected, got = pool.exchange(fakes), resumed.exchange(fakes)
        assert got.equal(expected) and got.stride() == expected.stride() == fakes.stride()
        old += not got.equal(fakes)
    assert old > 0


@BOTH
def test_the_state_of_an_earlier_version_gets_one_sentence(kind: type) -> None:
    old = {"images": None, "count": torch.zeros((), dtype=torch.int64), "generator": torch.Generator().get_state()}
    with pytest.raises(UserError, match=r"of an earlier version.*--init-from"):
        kind(3, seed=0).load_state_dict(old)


def test_mixed_sizes() -> None:
    pool = MixedSizePool(2, seed=0)
    sizes = {pool.exchange(torch.rand(1, 3, 8, side)).shape[-1] for side in (4, 8, 12, 16, 20, 24, 28, 32)}
    assert len(sizes) > 1


def test_both_pools_make_the_same_decisions() -> None:
    one, mixed = ImagePool(4, seed=11), MixedSizePool(4, seed=11)
    for step in range(60):
        fakes = torch.rand(2, 1, 2, 3)
        if step % 5 == 0:
            fakes[step // 5 % 2, 0, 1, 2] = float("inf")
        assert one.exchange(fakes).equal(mixed.exchange(fakes))


@BOTH
def test_an_image_that_is_not_finite_is_never_stored(kind: type) -> None:
    pool = kind(3, seed=0)
    for step in range(30):
        fakes = torch.full((1, 1, 2, 2), float("nan") if step % 3 == 0 else float(step + 1))
        out = pool.exchange(fakes)
        if step % 3:
            assert out.isfinite().all() and (out > 0).all()
