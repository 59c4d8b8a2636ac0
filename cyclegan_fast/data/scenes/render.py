"""The two images of a scene: a flat label map (domain A) and a textured, noisy photo (domain B)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from cyclegan_fast.data.rng import RandomUse, rng_for
from cyclegan_fast.data.scenes.layout import Array, RasterShape, Scene, class_map, rasterise

Colour = tuple[int, int, int]

# One colour per class of layout.CLASSES, uint8 [7, 3]: what a label map shows.
PALETTE = np.array(
    [
        [126, 190, 240],  # sky
        [150, 116, 168],  # hills
        [104, 212, 72],  # grass
        [128, 128, 132],  # road
        [36, 88, 200],  # lake
        [226, 104, 76],  # house
        [24, 104, 56],  # tree
    ],
    dtype=np.uint8,
)


@dataclass(frozen=True)
class _Material:
    """How a part looks in a photo."""

    far: Colour  # at the top of its range: the horizon on the ground, the zenith in the sky
    near: Colour  # at the bottom of its range
    grain: float = 0.0  # contrast of its texture
    stretch: bool = False  # texture drawn out sideways: water
    lit: float = 0.0  # how much brighter the side towards the light is
    varied: float = 0.0  # how much things of this material differ in brightness


_MATERIALS = {
    "sky": _Material((96, 148, 214), (206, 220, 232)),
    "far_hills": _Material((134, 136, 166), (142, 142, 160), grain=0.07),
    "near_hills": _Material((124, 120, 124), (132, 126, 124), grain=0.09),
    "grass": _Material((146, 162, 84), (122, 150, 62), grain=0.11),
    "lake": _Material((122, 164, 198), (56, 102, 150), grain=0.12, stretch=True),
    "road": _Material((128, 122, 116), (100, 96, 96), grain=0.08),
    "dash": _Material((184, 180, 170), (190, 186, 174)),
    "shadow": _Material((30, 38, 30), (30, 38, 30)),
    "wall": _Material((216, 162, 120), (216, 162, 120), grain=0.05, lit=0.16, varied=0.12),
    "roof": _Material((170, 72, 52), (170, 72, 52), grain=0.14, lit=0.18, varied=0.14),
    "window": _Material((104, 84, 80), (104, 84, 80)),
    "trunk": _Material((84, 62, 44), (84, 62, 44)),
    "crown": _Material((56, 86, 44), (44, 76, 34), grain=0.24, lit=0.30, varied=0.10),
}
_SHADOW_STRENGTH = 0.30
_NOISE = 3.0  # standard deviation of the sensor's noise, in levels of 255


def render_labels(scene: Scene, size: int) -> npt.NDArray[np.uint8]:
    """Renders the label map: the palette's colour of every pixel's class, uint8 [size, size, 3]."""
    return PALETTE[class_map(scene, size)]


def render_photo(scene: Scene, size: int) -> npt.NDArray[np.uint8]:
    """Renders the photo under a light of its own, uint8 [size, size, 3]."""
    rng = rng_for(scene.seed, RandomUse.PHOTO, scene.number)
    texture, ripples = _texture(scene, size, stretch=1), _texture(scene, size, stretch=6)
    canvas = _sky(scene, size)
    for shape in scene.shapes:
        raster = rasterise(shape, size)
        if raster is not None:
            _paint(canvas, raster, ripples if _MATERIALS[shape.part].stretch else texture, scene.horizon)
    light = rng.uniform(0.92, 1.07) * (1.0 + rng.uniform(-0.04, 0.04) * np.array([1.0, 0.1, -1.0]))
    canvas = canvas * light.astype(np.float32)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * _NOISE
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _sky(scene: Scene, size: int) -> Array:
    """A gradient from zenith to horizon with soft clouds, float32 [size, size, 3] in [0, 255]."""
    material = _MATERIALS["sky"]
    y = (np.arange(size, dtype=np.float32) + 0.5) / size
    t = np.clip(y / scene.horizon, 0.0, 1.0)[:, None, None]
    clouds = np.clip(_texture(scene, size, stretch=2, finest=16) * 1.4 - 0.25, 0.0, 0.5)[..., None]
    sky = _between(material, t)
    return sky + (np.float32(240.0) - sky) * clouds


def _paint(canvas: Array, raster: RasterShape, texture: Array, horizon: float) -> None:
    """Lays one shape over `canvas` [size, size, 3]."""
    shape, material = raster.shape, _MATERIALS[raster.shape.part]
    left, top, right, bottom = shape.box
    depth = np.clip((raster.y - horizon) / (1.0 - horizon), 0.0, 1.0)
    brightness = 1.0 + material.varied * shape.tone + material.grain * texture[raster.rows, raster.cols]
    if material.lit:
        across, down = (raster.x - left) / (right - left), (raster.y - top) / (bottom - top)
        brightness = brightness + material.lit * (1.0 - across - down)
    alpha = raster.coverage * (_SHADOW_STRENGTH if shape.part == "shadow" else 1.0)
    under = canvas[raster.rows, raster.cols]
    under += (_between(material, depth[..., None]) * brightness[..., None] - under) * alpha[..., None]


def _between(material: _Material, t: Array) -> Array:
    """The material's colour from far (t = 0) to near (t = 1), [..., 3]."""
    far, near = np.array(material.far, np.float32), np.array(material.near, np.float32)
    return far + (near - far) * t


def _texture(scene: Scene, size: int, *, stretch: int, finest: int = 256) -> Array:
    """Smooth noise of several octaves, float32 [size, size], about in [-1, 1].

    Every octave has a generator of its own, so a larger image adds detail and changes nothing else.
    """
    out = np.zeros((size, size), dtype=np.float32)
    cells, strength = 8, 0.5
    while cells <= min(size // 2, finest):
        lattice = rng_for(scene.seed, RandomUse.PHOTO, scene.number, part=cells * 8 + stretch)
        values = lattice.uniform(-1.0, 1.0, (cells, max(2, cells // stretch))).astype(np.float32)
        out += strength * np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC))
        cells, strength = cells * 2, strength * 0.85
    return out
