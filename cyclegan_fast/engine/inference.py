"""infer(engine, images): images of any kind and size in, the same kind out."""

from __future__ import annotations

from collections import defaultdict
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.engine.backends import Engine
from cyclegan_fast.engine.images import unpack
from cyclegan_fast.errors import UserError


def infer(engine: Engine, images: Any, *, batch_size: int = 8) -> Any:
    """Translates images.

    Args:
        engine: What `load_engine` returned. Several threads may share it.
        images: A path, a PIL image, a numpy array [H, W, C] or [N, H, W, C], a tensor [C, H, W] or [N, C, H, W], or a
            list of any of them, in mixed sizes; see `cyclegan_fast.engine.images` for types and ranges. Sides need
            not suit the network, one pixel is enough: images are mirrored over their right and lower edges, again
            and again if they are small, and cropped afterwards.
        batch_size: Images of one size that pass the network at a time.

    Returns:
        The same kind as `images` (a PIL image for a path), in the same order and size.

    Raises:
        UserError: An image or another argument cannot be used; the message says why.
    """
    if not isinstance(engine, Engine):
        raise UserError(
            f"infer takes an engine first, got {type(engine).__name__}: give what load_engine(path) returns"
        )
    check_batch_size(batch_size)
    planes, rebuild = unpack(images, engine.in_form, engine.out_form)
    return rebuild(_translate(engine, planes, batch_size))


def check_batch_size(batch_size: int) -> None:
    """Refuses what is no number of images.

    Raises:
        UserError: It is no whole number from 1.
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise UserError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")


def _translate(engine: Engine, planes: list[Tensor], batch_size: int) -> list[Tensor]:
    """float32 [C, H, W] each -> [C', H, W] each, with those of one padded size in one batch."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, plane in enumerate(planes):
        groups[_padded_size(engine, plane)].append(i)
    results: dict[int, Tensor] = {}
    for size, members in groups.items():
        for start in range(0, len(members), batch_size):
            chunk = members[start : start + batch_size]
            batch = engine.run(torch.stack([mirror_to(planes[i], size) for i in chunk]))
            if not batch.isfinite().all():
                raise UserError(
                    f"{engine.name} returned pixels that are not finite: use float32, or look at its weights"
                )
            for i, made in zip(chunk, batch, strict=True):
                results[i] = made[:, : planes[i].shape[1], : planes[i].shape[2]]
    return [results[i] for i in range(len(planes))]


def _padded_size(engine: Engine, plane: Tensor) -> tuple[int, int]:
    """(height, width) of an image once its sides suit the network."""
    height, width = plane.shape[1:]
    if min(height, width) < 1:
        raise UserError(f"an image of {width}x{height} pixels is empty: give at least one pixel")
    height, width = (-(-max(side, engine.smallest) // engine.multiple) * engine.multiple for side in (height, width))
    return height, width


def mirror_to(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, h, w] -> [C, *size], mirrored over the right and lower edges, again and again if that is far."""
    for axis, target in zip((1, 2), size, strict=True):
        length = plane.shape[axis]
        if target != length:
            there_and_back = torch.arange(target, device=plane.device) % max(2 * (length - 1), 1)
            index = torch.where(there_and_back < length, there_and_back, 2 * (length - 1) - there_and_back)
            plane = plane.index_select(axis, index)
    return plane
