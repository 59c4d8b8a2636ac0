"""Images too large for a network: as tiles with an overlap, or, where it must be exact, as strips.

Instance norm takes its statistics from what it sees, so a tile by itself comes out in colours of its own. Three ways:

    tile      each tile's own statistics, for every engine. Overlaps are blended, so that the change from tile to tile
              has no edge; that the tiles differ from each other remains.
    reduced   those of a reduced copy of the image, the same for all tiles: no seams, nearly as fast. Fine structure
              is missing in the copy, and so its share in the statistics.
    exact     those of the image itself, by `cyclegan_fast.engine.tiling.strips`: the result of the whole image at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cyclegan_fast import ops
from cyclegan_fast.engine.backends.torch import TorchBackend
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.tiling.rows import MirroredRows, Rows, mirrored, reduce
from cyclegan_fast.engine.tiling.strips import ProgressCallback, translate_exactly
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn.generators import ResnetGenerator
from cyclegan_fast.nn.norm import LEAKY_SLOPE, NormAct

Statistics = Literal["tile", "reduced", "exact"]
STATISTICS = ("tile", "reduced", "exact")
_BLENDED = 128  # pixels of overlap where neighbours differ and are blended
_REDUCED = 1024  # pixels of the longer side of the copy that gives the statistics
_Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tiling:
    """How a large image is cut.

    Raises:
        UserError: A setting is out of its range.
    """

    statistics: Statistics = "exact"
    """Whose mean and variance instance norm takes: tile, reduced or exact; see this file's head."""
    tile: int = 1024
    """Pixels of a tile's side; with exact, a strip has about as many pixels as such a tile."""
    overlap: int | None = None
    """Pixels that neighbours share. By default as many as the network sees around a pixel, where one tile may stand
    for the other (the tile grows where it must), and 128 where they are blended; exact takes what it needs."""

    def __post_init__(self) -> None:
        if self.statistics not in STATISTICS:
            raise UserError(f"statistics must be {', '.join(STATISTICS)}, got {self.statistics!r}")
        numbers = [self.tile, 0 if self.overlap is None else self.overlap]
        if any(type(number) is not int for number in numbers) or numbers[0] < 1 or not 0 <= 2 * numbers[1] <= self.tile:
            raise UserError(
                f"a tile must have at least 1 pixel, and an overlap from 0 to half a tile; "
                f"got {self.tile} and {self.overlap}"
            )


def default_tiling(engine: Engine) -> Tiling:
    """Exact where the engine can."""
    exact = isinstance(engine, TorchBackend) and isinstance(engine.network, ResnetGenerator)
    return Tiling("exact" if exact else "tile")


def check_tiling(engine: Engine, tiling: Tiling) -> None:
    """Refuses statistics that an engine's network cannot be given.

    Raises:
        UserError: It says which it can.
    """
    if not isinstance(tiling, Tiling):
        raise UserError(f"tiling is a Tiling, Tiling('exact'), say; got {tiling!r}")
    if tiling.statistics == "tile":
        return
    if not isinstance(engine, TorchBackend):
        raise UserError(
            f"--statistics {tiling.statistics} changes the norms inside, which {engine.name} does not let: "
            "give a checkpoint or weights, or say --statistics tile"
        )
    if tiling.statistics == "exact" and not isinstance(engine.network, ResnetGenerator):
        raise UserError(
            f"--statistics exact is for residual generators, and {engine.name} is a U-Net, whose inner layers see "
            "the whole image: say --statistics reduced, or tile"
        )


def translate_rows(
    engine: Engine, image: Rows, tiling: Tiling, *, batch_size: int = 1, follow: ProgressCallback = lambda _: None
) -> Iterator[Tensor]:
    """Translates an image of any size in bounded memory.

    Args:
        engine: Of torch (a checkpoint or weights) for reduced and exact, which must change the norms; any for tile.
        image: As the network takes it.
        tiling: How it is cut.
        batch_size: Tiles that pass the network at a time.
        follow: Is told the share that is done, as it grows.

    Yields:
        float32 [C', h, W] in [-1, 1]: bands of the result from its top to its bottom.

    Raises:
        UserError: The engine cannot do that, there is no room for what exact spills, or a result is not finite.
    """
    check_tiling(engine, tiling)
    fitting = MirroredRows(image, engine.fitting_size(image.height, image.width))
    left = image.height
    with engine.oom_as_user_error(f"an image of {image.width}x{image.height} pixels in tiles of {tiling.tile}"):
        for band in _bands(engine, fitting, tiling, batch_size, follow):
            if left > 0:
                yield engine.check_finite(band[:, :left, : image.width])
                left -= band.shape[1]


def _bands(
    engine: Engine, image: MirroredRows, tiling: Tiling, batch_size: int, follow: ProgressCallback
) -> Iterator[Tensor]:
    run: _Run = engine.run_any
    exact_at = None
    if isinstance(engine, TorchBackend) and tiling.statistics != "tile":
        network = engine.network
        if tiling.statistics == "reduced":
            run = _runner(engine, _with_statistics_of(reduce(image, _REDUCED), engine))
        elif isinstance(network, ResnetGenerator) and network.stem_norm.instance:
            return translate_exactly(network, image, pixels=tiling.tile**2, follow=follow)
        exact_at = _reach(network)  # without statistics of images, tiles are exact by themselves
    return _tile_bands(engine, run, image, tiling, batch_size, follow, exact_at=exact_at)


def _tile_bands(
    engine: Engine,
    run: _Run,
    image: MirroredRows,
    tiling: Tiling,
    batch_size: int,
    follow: ProgressCallback,
    *,
    exact_at: int | None,
) -> Iterator[Tensor]:
    """Tile after tile, one row of tiles after the other.

    Args:
        engine: Says what sizes there are.
        run: The network.
        image: Sides fit the network.
        tiling: How it is cut.
        batch_size: Tiles at a time.
        follow: Is told the share that is done.
        exact_at: How far from a tile's edge its result is that of the whole image; None: nowhere.
    """
    unit = engine.size_divisor
    usual = min(_BLENDED, tiling.tile // 2) if exact_at is None else 2 * exact_at
    batch_size = engine.at_a_time(batch_size)
    overlap = tiling.overlap if tiling.overlap is not None else usual
    side = -(-max(tiling.tile, 2 * overlap, engine.min_size) // unit) * unit
    most = engine.shapes.max[1:] if engine.shapes else (side, side)
    height, width = min(side, image.height, most[0]), min(side, image.width, most[1])
    tops, lefts = _starts(image.height, height, overlap, unit), _starts(image.width, width, overlap, unit)
    margin = min(overlap // 2, exact_at if exact_at is not None else overlap // 8)
    across = [_weights(i, lefts, width, margin) for i in range(len(lefts))]
    # [C' + 1, h, W]: what is not finished of the rows above, and the sum of its weights
    begun = torch.zeros(engine.out_channels + 1, 0, image.width)
    for i, top in enumerate(tops):
        down = _weights(i, tops, height, margin)
        rows = image.rows(top, top + height)
        sums = torch.zeros(engine.out_channels + 1, height, image.width)
        sums[:, : begun.shape[1]] = begun
        for chunk in range(0, len(lefts), batch_size):
            some = range(chunk, min(chunk + batch_size, len(lefts)))
            made = run(torch.stack([rows[:, :, lefts[j] : lefts[j] + width] for j in some])).cpu()
            for j, result in zip(some, made, strict=True):
                weight = down[:, None] * across[j]
                here = sums[:, :, lefts[j] : lefts[j] + width]
                here[:-1].addcmul_(result, weight)
                here[-1] += weight
        done = tops[i + 1] - top if i + 1 < len(tops) else height
        follow((i + 1) / len(tops))
        yield sums[:-1, :done] / sums[-1, :done]
        begun = sums[:, done:].clone()


def _starts(whole: int, tile: int, overlap: int, unit: int) -> list[int]:
    """Where tiles begin: evenly, at multiples of `unit`, with at least `overlap` in common, the last at the end."""
    if tile >= whole:
        return [0]
    step = max(unit, (tile - overlap) // unit * unit)
    count = -(-(whole - tile) // step) + 1
    return [round(i * (whole - tile) / (count - 1) / unit) * unit for i in range(count)]


def _weights(i: int, starts: list[int], tile: int, margin: int) -> Tensor:
    """[tile]: how much each pixel counts: 0 at `margin` from a neighbour's side, rising over what they share."""
    weight = torch.ones(tile)
    for shared, flip in (
        (starts[i - 1] + tile - starts[i] if i else 0, False),
        (starts[i] + tile - starts[i + 1] if i + 1 < len(starts) else 0, True),
    ):
        if shared > 0:
            ramp = torch.arange(shared) + 0.5 - margin
            ramp = (ramp / max(shared - 2 * margin, 1e-6)).clamp(0.0, 1.0)
            ones = torch.cat([ramp, torch.ones(tile - shared)])
            weight = weight * (ones.flip(0) if flip else ones)
    return weight


class _TileNorm(nn.Module):
    """Stands for a `NormAct` of instance norm: takes an image's statistics once, and uses them for its tiles."""

    def __init__(self, norm: NormAct) -> None:
        super().__init__()
        self.norm = norm
        self.statistics: Tensor | None = None  # [3, 1, C]
        self.count = 0  # pixels behind them

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """See `NormAct.forward`."""
        if self.statistics is None:
            self.statistics, self.count = ops.plane_statistics(x), x.shape[2] * x.shape[3]
        return ops.instance_norm_act(
            x,
            residual,
            statistics=self.statistics.expand(-1, x.shape[0], -1).contiguous(),
            statistics_count=self.count,
            constant_statistics=True,
            activation=self.norm.activation,
            negative_slope=LEAKY_SLOPE,
            pad=self.norm.pad,
        )


def _with_statistics_of(image: Tensor, engine: TorchBackend) -> nn.Module:
    """The engine's network, sharing its weights, whose norms keep the statistics of `image`, [C, h, w]."""
    shared = {id(value): value for value in (*engine.network.parameters(), *engine.network.buffers())}
    network = copy.deepcopy(engine.network, shared)  # a copy of the modules alone
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NormAct) and child.instance:
                setattr(module, name, _TileNorm(child))
    height, width = engine.fitting_size(*image.shape[1:])
    rows, columns = mirrored(image.shape[1], height), mirrored(image.shape[2], width)
    _runner(engine, network)(image[:, rows][:, :, columns][None])
    return network


def _runner(engine: TorchBackend, network: nn.Module) -> _Run:
    @torch.inference_mode()
    def run(batch: Tensor) -> Tensor:
        return network(batch.to(engine.device, engine.dtype, memory_format=torch.channels_last)).float()

    return run


def _reach(network: nn.Module) -> int:
    """How far, in pixels, a network sees around a pixel: half of its receptive field."""
    if not isinstance(network, ResnetGenerator):
        return int(network.size_divisor)  # type: ignore[arg-type]  # a U-Net sees all: neighbours are blended in the middle
    # The stem 3; two strided convolutions 1 and 2; two windows a block at a quarter of the size; and the way back up.
    return 3 + 1 + 2 + 8 * len(network.blocks) + 4 + 2 + 3
