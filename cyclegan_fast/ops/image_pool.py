"""image_pool_exchange: images offered to an image pool, the decisions drawn where the images are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops import reference
from cyclegan_fast.ops.extension import extension_available, runs_reference
from cyclegan_fast.ops.layout import check_dense, empty_in_layout_of
from cyclegan_fast.ops.reference import image_pool_draws, signed

__all__ = ["image_pool_draws", "image_pool_exchange"]


def image_pool_exchange(pool: Tensor, count: Tensor, drawn: Tensor, fakes: Tensor, *, seed: int) -> Tensor:
    """Offers images to the pool, one after the other; returns as many, without a gradient.

    Until the pool is full an image is stored and returned. Then, with probability 1/2, a random slot's image is
    returned and the new one takes its place; otherwise the new one is returned and not stored. An image that holds a
    NaN or an infinity is returned and never stored. Each image takes one decision, needed or not; decision number n is
    a function of the seed and n alone (`image_pool_draws`), the same on every device. The host reads nothing, so that
    a CUDA graph can hold the call: each replay goes on where `drawn` stands.

    Args:
        pool: [S, C, H, W] in float32, bfloat16, float16 or float64, contiguous or channels_last; changed in place.
        count: scalar int64, the images stored so far, from 0 to S; changed in place.
        drawn: scalar int64, the decisions drawn so far; changed in place.
        fakes: [N, C, H, W] in the type of the pool; a copy is made of one in another layout.
        seed: of the decisions; any integer, taken modulo 2^64. A CUDA graph keeps the one that it was captured with.

    Returns:
        [N, C, H, W], new, in the layout of the pool.

    Raises:
        UserError: if a shape, a type or a device breaks a rule above, or the tensors overlap in memory.
    """
    _check(pool, count, drawn, fakes)
    fakes = fakes.detach()
    if runs_reference(pool):
        return reference.image_pool_exchange(pool, count, drawn, fakes, seed)
    check_dense("image_pool_exchange", "pool", pool)
    return torch.ops.cyclegan_fast.image_pool_exchange(pool, count, drawn, fakes, signed(seed))


def _check(pool: Tensor, count: Tensor, drawn: Tensor, fakes: Tensor) -> None:
    if pool.dim() != 4 or len(pool) == 0:
        raise UserError(f"image_pool_exchange: pool must have shape [S, C, H, W] with S > 0, got {list(pool.shape)}")
    if fakes.dim() != 4 or fakes.shape[1:] != pool.shape[1:]:
        raise UserError(
            f"image_pool_exchange: fakes must have shape [N, {', '.join(map(str, pool.shape[1:]))}] as the pool's "
            f"images, got {list(fakes.shape)}"
        )
    if fakes.dtype != pool.dtype or fakes.device != pool.device:
        raise UserError(
            f"image_pool_exchange: fakes must be {pool.dtype} on {pool.device} as the pool is, "
            f"got {fakes.dtype} on {fakes.device}"
        )
    for name, scalar in (("count", count), ("drawn", drawn)):
        if scalar.dim() or scalar.dtype != torch.int64 or scalar.device != pool.device:
            raise UserError(
                f"image_pool_exchange: {name} must be a scalar torch.int64 on {pool.device} as the pool is, "
                f"got shape {list(scalar.shape)}, {scalar.dtype} on {scalar.device}"
            )

    if pool.requires_grad:
        raise UserError("image_pool_exchange: pool is changed in place and gets no gradient: pass pool.detach()")
    if not torch.compiler.is_compiling():  # where tensors have no addresses
        _check_memory(pool, count, drawn, fakes)


def _check_memory(pool: Tensor, count: Tensor, drawn: Tensor, fakes: Tensor) -> None:
    """What is written must not be what is read, nor be written twice."""
    if pool.is_neg():
        raise UserError("image_pool_exchange: a lazily negated pool cannot change in place: pass pool.resolve_neg()")
    if pool.device.type == "meta" or isinstance(pool, FakeTensor):  # these have no memory
        return
    if count.data_ptr() == drawn.data_ptr():
        raise UserError("image_pool_exchange: count and drawn must be two tensors, got the same memory twice")
    begin, end = pool.data_ptr(), pool.data_ptr() + pool.numel() * pool.element_size()
    last = sum((size - 1) * stride for size, stride in zip(fakes.shape, fakes.stride(), strict=True))
    if fakes.numel() and fakes.data_ptr() < end and fakes.data_ptr() + (last + 1) * fakes.element_size() > begin:
        raise UserError("image_pool_exchange: fakes lie in the pool's own memory: pass fakes.clone()")


def _fake(pool: Tensor, count: Tensor, drawn: Tensor, fakes: Tensor, seed: int) -> Tensor:
    return empty_in_layout_of(pool, fakes.shape)


if extension_available():
    torch.library.register_fake("cyclegan_fast::image_pool_exchange", _fake)
