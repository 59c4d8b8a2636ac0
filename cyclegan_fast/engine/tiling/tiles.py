"""An image of any size in bounded memory: as overlapping tiles, or exactly, as strips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cyclegan_fast.engine.backends.torch import TorchBackend
from cyclegan_fast.engine.checks import check_finite, oom_as_user_error
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.output_size import output_scale
from cyclegan_fast.engine.tiling.fixed_statistics import run_with_statistics_of
from cyclegan_fast.engine.tiling.rows import MirroredRows, Rows, reduce
from cyclegan_fast.engine.tiling.strips import translate_exactly
from cyclegan_fast.engine.tiling.tiling import Tiling, check_tiling
from cyclegan_fast.errors import UserError
from cyclegan_fast.monitoring.progress import Progress
from cyclegan_fast.nn.generators import ResnetGenerator

_BLENDED = 128  # pixels of overlap where neighbours differ and are blended
_REDUCED = 1024  # pixels of the longer side of the copy that gives the statistics


def translate_rows(
    engine: Engine, image: Rows, tiling: Tiling, *, batch_size: int = 1, progress: Progress = lambda *_: None
) -> Iterator[Tensor]:
    """Translates an image of any size in bounded memory.

    Args:
        engine: Of torch (a checkpoint or weights) for reduced and exact, which must change the norms; any for tile.
        image: As the network takes it.
        tiling: How it is cut.
        batch_size: Tiles that pass the network at a time.
        progress: Called with the rows of tiles, or the strips, that are done, and their total.

    Yields:
        float32 [C', h, W'] in [-1, 1]: bands of the result from its top to its bottom; W' is the image's width, or of
        an enlarging network a multiple of it.

    Raises:
        UserError: The engine cannot do that, neither memory nor disk holds what is spilled, or a result is not finite.
    """
    check_tiling(engine, tiling)
    fitting = MirroredRows(image, engine.limits.fitting_size(image.height, image.width))
    done = 0
    with oom_as_user_error(engine.info, f"an image of {image.width}x{image.height} pixels in tiles of {tiling.tile}"):
        for band in _bands(engine, fitting, tiling, batch_size, progress):
            factor = band.shape[2] // fitting.width
            left = image.height * factor - done
            if left > 0:
                yield check_finite(engine.info, band[:, :left, : image.width * factor])
                done += band.shape[1]


def _bands(
    engine: Engine, image: MirroredRows, tiling: Tiling, batch_size: int, progress: Progress
) -> Iterator[Tensor]:
    run: Callable[[Tensor], Tensor] = engine.run_any
    exact_at = None
    if isinstance(engine, TorchBackend) and tiling.statistics != "tile":
        network = engine.network
        if tiling.statistics == "reduced":
            run = run_with_statistics_of(reduce(image, _REDUCED), engine)
        elif isinstance(network, ResnetGenerator) and network.stem_norm.instance:
            return translate_exactly(network, image, pixels=tiling.tile**2, progress=progress)
        exact_at = _reach(network)  # without statistics of images, tiles are exact by themselves
    rows, columns = _axes(engine, image, tiling, exact_at)
    return _blended(run, image, rows, columns, engine.limits.batch_size(batch_size), engine.name, progress)


class _Axis(NamedTuple):
    """How one axis of an image is cut into tiles."""

    starts: list[int]
    """Where the tiles begin, in pixels."""
    tile: int
    """Pixels of a tile."""
    margin: int
    """Pixels from a neighbour's side at which a tile counts for nothing."""

    def weights(self, i: int, factor: int) -> Tensor:
        """[tile * factor]: how much each pixel of tile `i` counts, rising over what it shares with a neighbour."""
        weights = torch.ones(self.tile * factor)
        for neighbour, flip in ((i - 1, False), (i + 1, True)):
            if not 0 <= neighbour < len(self.starts):
                continue
            shared = self.tile - abs(self.starts[i] - self.starts[neighbour])
            if shared > 0:
                ramp = (torch.arange(shared * factor) + 0.5) / factor - self.margin
                ramp = (ramp / max(shared - 2 * self.margin, 1e-6)).clamp(0.0, 1.0)
                ones = torch.cat([ramp, torch.ones((self.tile - shared) * factor)])
                weights = weights * (ones.flip(0) if flip else ones)
        return weights


def _axes(engine: Engine, image: MirroredRows, tiling: Tiling, exact_at: int | None) -> list[_Axis]:
    """The axes of the height and the width.

    Args:
        engine: What limits the tiles.
        image: Its sides suit the network.
        tiling: How it is cut.
        exact_at: How far from a tile's edge its result is that of the whole image; None: nowhere.
    """
    limits = engine.limits
    default = min(_BLENDED, tiling.tile // 2) if exact_at is None else 2 * exact_at
    overlap = default if tiling.overlap is None else tiling.overlap
    margin = min(overlap // 2, overlap // 8 if exact_at is None else exact_at)
    axes = []
    for axis, whole in enumerate((image.height, image.width)):
        step = limits.steps[axis]
        tile = -(-max(tiling.tile, 2 * overlap, limits.min_sides[axis]) // step) * step
        if limits.shapes is not None:
            tile = min(tile, limits.shapes.max[1 + axis])
        tile = min(tile, whole)
        axes.append(_Axis(_starts(whole, tile, overlap, step), tile, margin))
    return axes


def _starts(whole: int, tile: int, overlap: int, step: int) -> list[int]:
    """Where tiles begin: evenly, at multiples of `step`, with at least `overlap` in common, the last at the end."""
    if tile >= whole:
        return [0]
    stride = max(step, (tile - overlap) // step * step)
    count = -(-(whole - tile) // stride) + 1
    return [round(i * (whole - tile) / (count - 1) / step) * step for i in range(count)]


def _blended(
    run: Callable[[Tensor], Tensor],
    image: MirroredRows,
    rows: _Axis,
    columns: _Axis,
    batch_size: int,
    name: str,
    progress: Progress,
) -> Iterator[Tensor]:
    """Tile after tile, one row of tiles after the other; float32 [C', h, W'] of each row what no later one changes."""
    unfinished: Tensor | None = None  # [C' + 1, h, W']: weighted sums of the rows above, and the sum of their weights
    for i, top in enumerate(rows.starts):
        pixels = image.rows(top, top + rows.tile)
        sums: Tensor | None = None
        for first in range(0, len(columns.starts), batch_size):
            some = range(first, min(first + batch_size, len(columns.starts)))
            batch = torch.stack([pixels[:, :, columns.starts[j] : columns.starts[j] + columns.tile] for j in some])
            output = run(batch).cpu()
            factor = _whole_factor(batch, output, name)
            if sums is None:
                sums = torch.zeros(output.shape[1] + 1, rows.tile * factor, image.width * factor)
                if unfinished is not None:
                    sums[:, : unfinished.shape[1]] = unfinished
            for j, result in zip(some, output, strict=True):
                weight = rows.weights(i, factor)[:, None] * columns.weights(j, factor)
                left = columns.starts[j] * factor
                here = sums[:, :, left : left + columns.tile * factor]
                here[:-1].addcmul_(result, weight)
                here[-1] += weight
        assert sums is not None
        done = (rows.starts[i + 1] - top) * factor if i + 1 < len(rows.starts) else rows.tile * factor
        progress(i + 1, len(rows.starts))
        yield sums[:-1, :done] / sums[-1, :done]
        unfinished = sums[:, done:].clone()


def _whole_factor(batch: Tensor, output: Tensor, name: str) -> int:
    """How many times as large as the tiles their results are."""
    scale = output_scale(batch, output)
    if scale.denominator != 1:
        raise UserError(f"{name} makes its results smaller than its images, and so takes images in one piece only")
    return scale.numerator


def _reach(network: nn.Module) -> int:
    """How far, in pixels, a network sees around a pixel: half of its receptive field."""
    if not isinstance(network, ResnetGenerator):
        return int(network.size_divisor)  # type: ignore[arg-type]  # a U-Net sees all: neighbours are blended in the middle
    # The stem 3; two strided convolutions 1 and 2; two of kernel size 3 a block at a quarter of the size; and back up.
    return 3 + 1 + 2 + 8 * len(network.blocks) + 4 + 2 + 3
