"""The images of a scene: a flat label map, and textured, noisy photos of one look or another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cyclegan_fast.data.rng import RandomUse, rng_for
from cyclegan_fast.data.scenes.brush import paint
from cyclegan_fast.data.scenes.layout import Array, RasterShape, Scene, class_map, rasterise
from cyclegan_fast.data.scenes.looks import DAYLIGHT, Look, Material
from cyclegan_fast.data.scenes.texture import texture

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


_SHADOW_STRENGTH = 0.30
_MIDDLE = 128.0  # grey, about which contrast is changed
_FAR = ("far_hills", "near_hills", "grass", "lake", "road", "dash")  # with the sky, what objects stand before


def render_labels(scene: Scene, size: int) -> npt.NDArray[np.uint8]:
    """Renders the label map: the palette's colour of every pixel's class, uint8 [size, size, 3]."""
    return PALETTE[class_map(scene, size)]


def render_photo(scene: Scene, size: int, look: Look = DAYLIGHT) -> npt.NDArray[np.uint8]:
    """Renders the photo under a light of its own, uint8 [size, size, 3].

    All looks of a scene share its light, and its noise but for the strength: they differ where the look says so alone.
    """
    rng = rng_for(scene.seed, RandomUse.PHOTO, scene.number)
    textures = texture(scene, size, stretch=1), texture(scene, size, stretch=6)
    canvas = _sky(scene, size, look)
    rasters = [raster for shape in scene.shapes if (raster := rasterise(shape, size)) is not None]
    for raster in [raster for raster in rasters if raster.shape.part in _FAR]:
        _paint(canvas, raster, textures, scene.horizon, look)
    if look.blur:
        canvas = _out_of_focus(canvas, scene, look.blur)
    for raster in [raster for raster in rasters if raster.shape.part not in _FAR]:
        _paint(canvas, raster, textures, scene.horizon, look)
    light = rng.uniform(0.92, 1.07) * (1.0 + rng.uniform(-0.04, 0.04) * np.array([1.0, 0.1, -1.0]))
    canvas = _developed(canvas * light.astype(np.float32), look)
    if look.painted:
        canvas = paint(canvas, scene)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * look.noise
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _developed(canvas: Array, look: Look) -> Array:
    """Changes saturation and contrast; [size, size, 3]."""
    if look.saturation != 1:
        grey = canvas.mean(axis=2, keepdims=True)
        canvas = grey + (canvas - grey) * look.saturation
    return canvas if look.contrast == 1 else _MIDDLE + (canvas - _MIDDLE) * look.contrast


def _out_of_focus(canvas: Array, scene: Scene, blur: float) -> Array:
    """Blurs what is far: all above the horizon, and less and less below it; [size, size, 3]."""
    places = (np.arange(len(canvas), dtype=np.float32) + 0.5) / len(canvas)
    weights = np.exp(-0.5 * ((places[:, None] - places) / blur) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)  # [size, size]: of each place, those around it
    blurred = np.einsum("yi,ijc,xj->yxc", weights, canvas, weights, optimize=True)
    sharp = np.clip((places - scene.horizon) / (1.0 - scene.horizon), 0.0, 1.0)[:, None, None]
    return (blurred + (canvas - blurred) * sharp).astype(np.float32)


def _sky(scene: Scene, size: int, look: Look) -> Array:
    """A gradient from zenith to horizon with soft clouds, float32 [size, size, 3] in [0, 255]."""
    y = (np.arange(size, dtype=np.float32) + 0.5) / size
    t = np.clip(y / scene.horizon, 0.0, 1.0)[:, None, None]
    clouds = np.clip(texture(scene, size, stretch=2, finest=16) * 1.4 - 0.25, 0.0, 0.5)[..., None]
    sky = _between(look.materials["sky"], t)
    return sky + (np.float32(240.0) - sky) * clouds


def _paint(canvas: Array, raster: RasterShape, textures: tuple[Array, Array], horizon: float, look: Look) -> None:
    """Lays one shape over `canvas` [size, size, 3]; of the two textures the second is drawn out sideways."""
    shape, material = raster.shape, look.materials[raster.shape.part]
    left, top, right, bottom = shape.box
    depth = np.clip((raster.y - horizon) / (1.0 - horizon), 0.0, 1.0)
    grain = textures[material.stretch][raster.rows, raster.cols]
    brightness = 1.0 + material.varied * shape.tone + material.grain * grain
    across, down = (raster.x - left) / (right - left), (raster.y - top) / (bottom - top)
    if material.lit:
        brightness = brightness + material.lit * (1.0 - across - down)
    if material.stripes:
        brightness = brightness * (0.58 - 0.42 * np.clip(2 * np.cos(2 * np.pi * material.stripes * across), -1, 1))
    alpha = raster.coverage * (_SHADOW_STRENGTH if shape.part == "shadow" else 1.0)
    under = canvas[raster.rows, raster.cols]
    under += (_between(material, depth[..., None]) * brightness[..., None] - under) * alpha[..., None]


def _between(material: Material, t: Array) -> Array:
    """The material's colour from far (t = 0) to near (t = 1), [..., 3]."""
    far, near = np.array(material.far, np.float32), np.array(material.near, np.float32)
    return far + (near - far) * t
