"""How a large image is cut, and which ways an engine has.

Instance norm takes its statistics from what it sees, so a tile by itself comes out in colours of its own:

    tile      each tile's own statistics, for every engine. Overlaps are blended, so that the change from tile to tile
              has no edge; that the tiles differ from each other remains.
    reduced   those of a reduced copy of the image, the same for all tiles: no seams, nearly as fast. Fine structure
              is missing in the copy, and so its share in the statistics.
    exact     those of the image itself, by `cyclegan_fast.engine.tiling.strips`: the result of the whole image at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cyclegan_fast.engine.backends.torch import TorchBackend
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn.generators import ResnetGenerator

Statistics = Literal["tile", "reduced", "exact"]
STATISTICS = ("tile", "reduced", "exact")


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
        UserError: With those that it can be given.
    """
    if not isinstance(tiling, Tiling):
        raise UserError(f"tiling is a Tiling, such as Tiling('exact'); got {tiling!r}")
    if tiling.statistics == "tile":
        return
    if not isinstance(engine, TorchBackend):
        raise UserError(
            f"{tiling.statistics} statistics change the norms inside, which {engine.name} does not allow: "
            "give a checkpoint or weights, or choose tile statistics"
        )
    if tiling.statistics == "exact" and not isinstance(engine.network, ResnetGenerator):
        raise UserError(
            f"exact statistics are for residual generators, and {engine.name} is a U-Net, whose inner layers see "
            "the whole image: choose reduced or tile statistics"
        )
