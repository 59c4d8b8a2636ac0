"""What stands where in a scene, without any resolution: shapes as signed distances over the unit square.

x runs to the right and y down, both over [0, 1]. A shape's distance is positive inside, in units of the image's
side; from it come the crisp class map and the antialiased photo alike, at any size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cyclegan_fast.data.rng import RandomUse, rng_for

Array = npt.NDArray[Any]  # floats
Distance = Callable[..., Array]  # (x [1, W], y [H, 1]), or two numbers -> distance [H, W], positive inside
Box = tuple[float, float, float, float]  # left, top, right, bottom

CLASSES = ("sky", "hills", "grass", "road", "lake", "house", "tree")
SKY, HILLS, GRASS, ROAD, LAKE, HOUSE, TREE = range(len(CLASSES))

_CLASS_OF_PART: dict[str, int | None] = {
    "far_hills": HILLS,
    "near_hills": HILLS,
    "grass": GRASS,
    "lake": LAKE,
    "road": ROAD,
    "dash": ROAD,
    "shadow": None,  # darkens what lies there and changes no class
    "wall": HOUSE,
    "roof": HOUSE,
    "window": HOUSE,
    "trunk": TREE,
    "crown": TREE,
}


@dataclass(frozen=True)
class Shape:
    """One thing in a scene."""

    part: str
    """What it is made of: a key of the photo's table of materials."""
    distance: Distance
    box: Box = (0.0, 0.0, 1.0, 1.0)
    """Bounds outside of which it is never drawn."""
    tone: float = 0.0
    """Its own shade within its material, in [-1, 1]."""

    @property
    def class_id(self) -> int | None:
        """The class that it gives to its pixels; None leaves them as they were."""
        return _CLASS_OF_PART[self.part]


@dataclass(frozen=True)
class Scene:
    """A scene: everything that both renderings need, back to front."""

    seed: int
    number: int
    horizon: float
    """Height of the horizon, in [0, 1] from the top."""
    shapes: tuple[Shape, ...] = field(repr=False)


@dataclass(frozen=True)
class RasterShape:
    """A shape on the pixels of one image."""

    shape: Shape
    rows: slice
    cols: slice
    x: Array  # [1, w], centres of the pixels
    y: Array  # [h, 1]
    coverage: Array  # [h, w], in [0, 1]


def rasterise(shape: Shape, size: int) -> RasterShape | None:
    """Rasterises `shape` for an image of `size` pixels a side; None when it lies outside."""
    left, top, right, bottom = shape.box
    cols = slice(max(0, int(left * size) - 1), min(size, int(right * size) + 2))
    rows = slice(max(0, int(top * size) - 1), min(size, int(bottom * size) + 2))
    if cols.start >= cols.stop or rows.start >= rows.stop:
        return None
    x = ((np.arange(cols.start, cols.stop, dtype=np.float32) + 0.5) / size)[None, :]
    y = ((np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) / size)[:, None]
    coverage = np.clip(shape.distance(x, y) * size + 0.5, 0.0, 1.0).astype(np.float32)
    return RasterShape(shape, rows, cols, x, y, coverage)


def class_map(scene: Scene, size: int) -> npt.NDArray[np.uint8]:
    """Renders the truth: the class of every pixel, uint8 [size, size]."""
    out = np.full((size, size), SKY, dtype=np.uint8)
    for shape in scene.shapes:
        raster = rasterise(shape, size)
        if raster is not None and shape.class_id is not None:
            out[raster.rows, raster.cols][raster.coverage >= 0.5] = shape.class_id
    return out


def draw_scene(seed: int, number: int) -> Scene:
    """Draws the scene with this number; the same for every size and on every machine."""
    rng = rng_for(seed, RandomUse.LAYOUT, number)
    horizon = float(rng.uniform(0.36, 0.50))
    road = _Road.draw(rng, horizon)
    ground = [_hills(rng, horizon, far=True), _hills(rng, horizon, far=False), Shape("grass", _below(horizon))]
    lakes = [_lake(rng, horizon, road)] if rng.random() < 0.85 else []
    ground += [*lakes, road.surface(), road.dashes()]
    return Scene(seed, number, horizon, tuple(ground + _objects(rng, horizon, road, lakes)))


@dataclass(frozen=True)
class _Road:
    """A road from the image's lower edge to a vanishing point on the horizon."""

    horizon: float
    start: float  # x at the lower edge
    end: float  # x at the horizon
    bend: float
    width: float  # half its width at the lower edge

    @staticmethod
    def draw(rng: np.random.Generator, horizon: float) -> _Road:
        start, end, bend, width = rng.uniform([0.15, 0.30, -0.35, 0.11], [0.85, 0.70, 0.35, 0.17])
        return _Road(horizon, float(start), float(end), float(bend), float(width))

    def centre(self, y: Any) -> Any:
        """The middle of the road, x, at the height y."""
        t = (y - self.horizon) / (1.0 - self.horizon)
        return self.end + (self.start - self.end) * t + self.bend * t * (1.0 - t)

    def half_width(self, y: Any) -> Any:
        """Half its width at the height y."""
        return 0.012 + (self.width - 0.012) * (y - self.horizon) / (1.0 - self.horizon)

    def surface(self) -> Shape:
        def distance(x: Array, y: Array) -> Array:
            return np.minimum(self.half_width(y) - np.abs(x - self.centre(y)), y - self.horizon)

        return Shape("road", distance, (0.0, self.horizon, 1.0, 1.0))

    def dashes(self) -> Shape:
        def distance(x: Array, y: Array) -> Array:
            depth = 1.0 / np.maximum(y - self.horizon + 0.06, 0.03)  # evenly spaced on the ground
            on = np.sin(depth * 5.0) * 0.02
            return np.minimum(self.half_width(y) * 0.07 - np.abs(x - self.centre(y)), on)

        return Shape("dash", distance, (0.0, self.horizon + 0.05, 1.0, 1.0))


def _below(height: float) -> Distance:
    return lambda x, y: np.broadcast_to(y - height, (y.shape[0], x.shape[1]))


def _hills(rng: np.random.Generator, horizon: float, *, far: bool) -> Shape:
    """A ridge of three sine waves; the far one is higher and smoother."""
    rise = float(rng.uniform(0.10, 0.18) if far else rng.uniform(0.03, 0.09))
    waves = np.array([1.2, 2.7, 5.3]) * (1.0 if far else 1.6) * rng.uniform(0.8, 1.2, 3) * np.pi
    phases = rng.uniform(0.0, 2.0 * np.pi, 3)
    heights = np.array([0.5, 0.3, 0.12]) * rise

    def distance(x: Array, y: Array) -> Array:
        waves_at_x = (heights[:, None] * np.sin(waves[:, None] * x + phases[:, None])).sum(axis=0, keepdims=True)
        return y - (horizon - rise - waves_at_x)  # x is [1, W]

    return Shape("far_hills" if far else "near_hills", distance, (0.0, horizon - 2.0 * rise, 1.0, horizon + 0.01))


def _ellipse(cx: float, cy: float, rx: float, ry: float) -> Distance:
    return lambda x, y: (1.0 - np.hypot((x - cx) / rx, (y - cy) / ry)) * min(rx, ry)


def _box(cx: float, cy: float, rx: float, ry: float) -> Box:
    return (cx - rx, cy - ry, cx + rx, cy + ry)


def _lake(rng: np.random.Generator, horizon: float, road: _Road) -> Shape:
    """A lake on the side of the road that has more room."""
    cy, rx, ry = (float(v) for v in rng.uniform([0.14, 0.20, 0.055], [0.34, 0.34, 0.11]))
    cy += horizon
    side = 1.0 if float(road.centre(cy)) < 0.5 else -1.0
    cx = float(road.centre(cy)) + side * (float(road.half_width(cy)) + rx * float(rng.uniform(0.8, 1.2)))
    return Shape("lake", _ellipse(cx, cy, rx, ry), _box(cx, cy, rx, ry))


def _objects(rng: np.random.Generator, horizon: float, road: _Road, lakes: list[Shape]) -> list[Shape]:
    """Houses and trees on dry ground beside the road, the far ones first."""
    wanted = [_house] * int(rng.integers(1, 4)) + [_tree] * int(rng.integers(3, 7))
    raster: list[tuple[float, list[Shape]]] = []
    for make in wanted:
        x, base = _dry_ground(rng, horizon, road, lakes)
        scale = 0.5 + 0.85 * (base - horizon) / (1.0 - horizon)
        raster.append((base, make(rng, x, base, scale)))
    raster.sort(key=lambda item: item[0])
    return [shape for _, shapes in raster for shape in shapes]


def _dry_ground(rng: np.random.Generator, horizon: float, road: _Road, lakes: list[Shape]) -> tuple[float, float]:
    """A point (x, y) on the grass, clear of the road and the lake; the last of 20 attempts if none is."""
    x = base = 0.0
    for _ in range(20):
        x, far = rng.uniform(0.0, 1.0), rng.uniform(0.08, 0.65)
        base = horizon + (1.0 - horizon) * float(far)
        on_road = road.half_width(base) + 0.06 + 0.06 * far - abs(x - road.centre(base))
        if on_road < 0.0 and all(float(lake.distance(x, base)) < -0.015 for lake in lakes):
            break
    return float(x), base


def _house(rng: np.random.Generator, x: float, base: float, scale: float) -> list[Shape]:
    """Walls, a gable roof, two windows and a shadow on the ground; `base` is where the walls meet it."""
    half, wall, roof = (float(v) * scale for v in rng.uniform([0.10, 0.10, 0.07], [0.15, 0.14, 0.11]))
    tone = float(rng.uniform(-1.0, 1.0))
    eaves, hw = base - wall, half * 1.15

    def walls(px: Array, py: Array) -> Array:
        return np.minimum(half - np.abs(px - x), wall / 2 - np.abs(py - (base - wall / 2)))

    def gable(px: Array, py: Array) -> Array:
        slope = ((py - (eaves - roof)) * hw - np.abs(px - x) * roof) / np.hypot(hw, roof)
        return np.minimum(slope, eaves - py)

    def windows(px: Array, py: Array) -> Array:
        to_window = np.abs(np.abs(px - x) - half * 0.5)
        return np.minimum(half * 0.22 - to_window, wall * 0.2 - np.abs(py - (base - wall * 0.58)))

    return [
        _shadow(x, base, half * 1.5, 0.03 * scale),
        Shape("wall", walls, (x - half, eaves, x + half, base), tone),
        Shape("roof", gable, (x - hw, eaves - roof, x + hw, eaves), tone),
        Shape("window", windows, (x - half, eaves, x + half, base), tone),
    ]


def _tree(rng: np.random.Generator, x: float, base: float, scale: float) -> list[Shape]:
    """A round or a pointed crown on a trunk."""
    width, height = (float(v) * scale for v in rng.uniform([0.075, 0.24], [0.12, 0.36]))
    tone, top = float(rng.uniform(-1.0, 1.0)), base - height
    trunk_top, trunk_half = base - height * 0.3, 0.016 * scale

    def trunk(px: Array, py: Array) -> Array:
        return np.minimum(trunk_half - np.abs(px - x), np.minimum(base - py, py - trunk_top))

    def pointed(px: Array, py: Array) -> Array:
        slope = ((py - top) * width - np.abs(px - x) * height * 0.85) / np.hypot(width, height * 0.85)
        return np.minimum(slope, base - height * 0.15 - py)

    def rounded(px: Array, py: Array) -> Array:
        low = _ellipse(x, base - height * 0.42, width, height * 0.26)(px, py)
        high = _ellipse(x + width * 0.1, base - height * 0.70, width * 0.75, height * 0.30)(px, py)
        return np.maximum(low, high)

    return [
        _shadow(x, base, width * 1.3, 0.022 * scale),
        Shape("trunk", trunk, (x - trunk_half, trunk_top, x + trunk_half, base), tone),
        Shape("crown", pointed if rng.random() < 0.45 else rounded, (x - width, top, x + width, base), tone),
    ]


def _shadow(x: float, y: float, rx: float, ry: float) -> Shape:
    """The shadow on the ground: the light comes from the upper left."""
    return Shape("shadow", _ellipse(x + rx * 0.3, y, rx, ry), _box(x + rx * 0.3, y, rx, ry))


def with_houses_alone(scene: Scene) -> Scene:
    """Returns the scene with a house in the place of each tree."""
    return _with_objects(scene, _house, "wall")


def with_trees_alone(scene: Scene) -> Scene:
    """Returns the scene with a tree in the place of each house."""
    return _with_objects(scene, _tree, "trunk")


def _with_objects(scene: Scene, make: Callable[..., list[Shape]], part: str) -> Scene:
    """Makes objects of one kind in the place of all others; `part` follows the shadow of those that stay."""
    starts = [i for i, shape in enumerate(scene.shapes) if shape.part == "shadow"]
    shapes = list(scene.shapes[: starts[0]])
    for start, end in zip(starts, [*starts[1:], len(scene.shapes)], strict=True):
        found = list(scene.shapes[start:end])
        if found[1].part != part:
            left, _, right, base = found[1].box
            scale = 0.5 + 0.85 * (base - scene.horizon) / (1.0 - scene.horizon)
            rng = rng_for(scene.seed, RandomUse.LAYOUT, scene.number, part=start)
            found = make(rng, (left + right) / 2, base, scale)
        shapes += found
    return replace(scene, shapes=tuple(shapes))
