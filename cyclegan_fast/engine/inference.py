"""infer(engine, images): images of any kind and size in, the same kind out."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import islice
from numbers import Integral
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from cyclegan_fast.engine.checks import check_finite
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.output_size import output_scale, scaled
from cyclegan_fast.engine.tiling.rows import TensorRows, mirror_to
from cyclegan_fast.engine.tiling.tiles import translate_rows
from cyclegan_fast.engine.tiling.tiling import Tiling, check_tiling, default_tiling
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.convert import unpack, unpack_items
from cyclegan_fast.images.in_memory import is_file_object, read_file_objects
from cyclegan_fast.logs import warn_once

if TYPE_CHECKING:
    from PIL.Image import Image

    from cyclegan_fast.engine.image_types import Array, ImageSource, Source

log = logging.getLogger(__name__)

_WHOLE = 2**24  # pixels of the largest image that passes a network in one piece, unless a tiling is given
_MAX_BATCH = 2**20  # images
_READ_AHEAD = 4  # batches of a stream that are read before the first of them runs, to group images of one size


@overload
def infer(engine: Engine, images: Tensor, *, batch_size: int = ..., tiling: Tiling | None = ...) -> Tensor: ...
@overload
def infer(engine: Engine, images: Array, *, batch_size: int = ..., tiling: Tiling | None = ...) -> Array: ...
@overload
def infer(engine: Engine, images: ImageSource, *, batch_size: int = ..., tiling: Tiling | None = ...) -> Image: ...
@overload
def infer(
    engine: Engine, images: list[Tensor] | tuple[Tensor, ...], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> list[Tensor]: ...
@overload
def infer(
    engine: Engine, images: list[Array] | tuple[Array, ...], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> list[Array]: ...
@overload
def infer(
    engine: Engine, images: list[Source] | tuple[Source, ...], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> list[Image]: ...
@overload
def infer(
    engine: Engine, images: list[Any] | tuple[Any, ...], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> list[Any]: ...
@overload
def infer(
    engine: Engine, images: Iterator[Tensor], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> Iterator[Tensor]: ...
@overload
def infer(
    engine: Engine, images: Iterator[Array], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> Iterator[Array]: ...
@overload
def infer(
    engine: Engine, images: Iterator[Source], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> Iterator[Image]: ...
@overload
def infer(
    engine: Engine, images: Iterator[Any], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> Iterator[Any]: ...
def infer(engine: Engine, images: Any, *, batch_size: int = 8, tiling: Tiling | None = None) -> Any:
    """Translates images.

    Args:
        engine: What `load_engine` returned. Several threads may share it.
        images: A path, a folder, a glob pattern, the bytes of an image file, an open binary file (which stays open), a
            PIL image, a numpy array [H, W, C] or [N, H, W, C], a tensor [C, H, W] or [N, C, H, W], or a list of any of
            them, in mixed sizes. Arrays and tensors hold uint8 (0 to 255), uint16 (0 to 65535) or floats (-1 is black,
            1 is white); see `cyclegan_fast.images.convert`. Or an iterator (such as a generator) of any of them: the
            result is one, too, which reads as it goes, at most 4 batches ahead (none with ``batch_size=1``), and the
            memory does not grow. Sides need not suit the network, one pixel is enough: images are mirrored over their
            right and lower edges, again and again if they are small, and results are cropped to the image's part.
        batch_size: Images of one size that pass the network at a time, or tiles of a large one.
        tiling: Cuts images that have more pixels than a tile. By default those of more than 16 megapixels are cut, by
            ``Tiling("exact")`` where the engine is of torch and its generator of residual blocks, and by
            ``Tiling("tile")`` with a warning in the log elsewhere; see `cyclegan_fast.engine.tiling.tiling`.

    Returns:
        The same kind as `images` (a PIL image for a path, bytes or a file; a list of them for a folder or a pattern,
        which no type can show), in the same order and size; of a network that enlarges or reduces, in its multiple of
        that size.

    Raises:
        UserError: An image or another argument cannot be used; the message says why, and which image of a list it is.
    """
    _check(engine, batch_size, tiling)
    if _is_stream(images):
        return _stream(engine, images, batch_size, tiling)
    with engine.call():
        planes, rebuild = unpack(images, engine.in_format, engine.out_format)
        return rebuild(_translate(engine, planes, batch_size, tiling))


@overload
def infer_async(
    engine: Engine, images: Tensor, *, batch_size: int = ..., tiling: Tiling | None = ...
) -> Future[Tensor]: ...
@overload
def infer_async(
    engine: Engine, images: Array, *, batch_size: int = ..., tiling: Tiling | None = ...
) -> Future[Array]: ...
@overload
def infer_async(
    engine: Engine, images: ImageSource, *, batch_size: int = ..., tiling: Tiling | None = ...
) -> Future[Image]: ...
@overload
def infer_async(
    engine: Engine, images: list[Tensor] | tuple[Tensor, ...], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> Future[list[Tensor]]: ...
@overload
def infer_async(
    engine: Engine, images: list[Array] | tuple[Array, ...], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> Future[list[Array]]: ...
@overload
def infer_async(
    engine: Engine, images: list[Source] | tuple[Source, ...], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> Future[list[Image]]: ...
@overload
def infer_async(
    engine: Engine, images: list[Any] | tuple[Any, ...], *, batch_size: int = ..., tiling: Tiling | None = ...
) -> Future[list[Any]]: ...
def infer_async(engine: Engine, images: Any, *, batch_size: int = 8, tiling: Tiling | None = None) -> Future[Any]:
    """The same on one of the engine's own threads: returns at once what will hold the result.

    Example::

        future = cyclegan_fast.infer_async(engine, "horse.jpg")
        image = future.result()      # or, in a coroutine: await asyncio.wrap_future(future)

    Args:
        engine: As for `infer`. Closing it waits for what was begun.
        images: As for `infer`, without iterators. Files are read before this returns; arrays and tensors must not
            change before the result is there.
        batch_size: As for `infer`.
        tiling: As for `infer`.

    Raises:
        UserError: As `infer` does: about the engine at once, about the images from the future.
    """
    _check(engine, batch_size, tiling)
    if _is_stream(images):
        raise UserError("infer_async takes images, not an iterator: give infer the iterator, or a list to infer_async")
    images = read_file_objects(images)
    return engine.submit(lambda: infer(engine, images, batch_size=batch_size, tiling=tiling))


def _is_stream(images: Any) -> bool:
    """Whether images come one by one; a file is an iterator, too, of its lines."""
    return isinstance(images, Iterator) and not is_file_object(images)


def _check(engine: Engine, batch_size: int, tiling: Tiling | None) -> None:
    if not isinstance(engine, Engine):
        raise UserError(
            f"infer takes an engine first, got {type(engine).__name__}: give what load_engine(path) returns"
        )
    engine.check_open()
    check_batch_size(batch_size)
    if tiling is not None:
        check_tiling(engine, tiling)


def check_batch_size(batch_size: int, name: str = "batch_size") -> None:
    """Refuses what is no number of images; the error calls it `name`.

    Raises:
        UserError: It is no whole number from 1, or far too large.
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise UserError(f"{name} must be a whole number of at least 1, got {batch_size!r}")
    if batch_size > _MAX_BATCH:
        raise UserError(f"{name} must be at most {_MAX_BATCH}, got {batch_size}")


def _stream(engine: Engine, images: Iterator[Any], batch_size: int, tiling: Tiling | None) -> Iterator[Any]:
    """Reads some batches at a time, each time as one list."""
    done = 0
    while some := list(islice(images, 1 if batch_size == 1 else _READ_AHEAD * batch_size)):
        with engine.call():
            planes, rebuild = unpack_items(some, engine.in_format, engine.out_format, of="iterator", start=done)
            results = rebuild(_translate(engine, planes, batch_size, tiling))
        done += len(some)
        yield from results


def translate_values(
    engine: Engine, values: list[Tensor], *, batch_size: int = 8, tiling: Tiling | None = None
) -> list[Tensor]:
    """`infer` of images as `read_input` gives them, float32 [C, H, W] in [-1, 1] each; their range is not questioned.

    Raises:
        UserError: The engine is closed or fails, or another argument cannot be used.
    """
    _check(engine, batch_size, tiling)
    with engine.call():
        return _translate(engine, values, batch_size, tiling)


def _translate(engine: Engine, planes: list[Tensor], batch_size: int, tiling: Tiling | None) -> list[Tensor]:
    """float32 [C, H, W] each -> [C', H', W'] each, with those of one padded size in one batch."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    results: dict[int, Tensor] = {}
    for i, plane in enumerate(planes):
        size = _padded_size(engine, plane)
        if cut := tiling_for(engine, size[0] * size[1], tiling):
            bands = list(translate_rows(engine, TensorRows(plane), cut, batch_size=batch_size))
            results[i] = torch.cat(bands, 1).to(plane.device)
        else:
            groups[size].append(i)
    batch_size = engine.limits.batch_size(batch_size)
    for size, members in groups.items():
        for start in range(0, len(members), batch_size):
            chunk = members[start : start + batch_size]
            batch = torch.stack([mirror_to(planes[i], size) for i in chunk])
            output = check_finite(engine.info, engine.run_any(batch))
            scale = output_scale(batch, output)
            for i, result in zip(chunk, output, strict=True):
                height, width = (scaled(side, scale) for side in planes[i].shape[1:])
                results[i] = result[:, :height, :width]
    return [results[i] for i in range(len(planes))]


def tiling_for(engine: Engine, pixels: int, asked: Tiling | None) -> Tiling | None:
    """How an image of so many pixels is cut; None: not at all."""
    if asked is not None:
        return asked if pixels > asked.tile**2 else None
    if pixels <= _WHOLE:
        return None
    tiling = default_tiling(engine)
    if tiling.statistics == "tile":
        warn_once(
            log,
            f"images of more than {_WHOLE / 1e6:.0f} megapixels pass {engine.name} in tiles, each with statistics of "
            "its own: a checkpoint of a residual generator gives the exact result",
        )
    return tiling


def _padded_size(engine: Engine, plane: Tensor) -> tuple[int, int]:
    """(height, width) of an image once its sides suit the network."""
    return engine.limits.fitting_size(*plane.shape[1:])
