"""A painter's hand: colours that are more vivid than those of a photo, laid on in strokes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from cyclegan_fast.data.rng import RandomUse, rng_for
from cyclegan_fast.data.scenes.layout import Array, Scene
from cyclegan_fast.data.scenes.texture import texture

_LAYERS = ((26, 0.085, 0.050), (44, 0.050, 0.026))  # strokes along a side; their length and width, in sides
_UNEVEN = 0.09  # how much strokes of one colour differ in brightness
_SHADE = np.array([26.0, -8.0, 44.0], np.float32)  # what shadows gain: violet
_LIGHT = np.array([14.0, 8.0, -22.0], np.float32)  # and lights: yellow
_VIVID = 1.5  # saturation
_PART = 1  # of a scene's random numbers


def paint(canvas: Array, scene: Scene) -> Array:
    """Paints a photo, float32 [size, size, 3] in levels of 255, stroke by stroke from left to right and down."""
    size = len(canvas)
    fine = 4 if size <= 256 else 1  # smaller images are painted larger, so that strokes have smooth edges
    painted = Image.fromarray(np.clip(painters_colours(canvas), 0, 255).astype(np.uint8))
    colours, turned = np.asarray(painted, np.float32), texture(scene, size, stretch=2, finest=8) * np.pi
    painted = painted.resize((size * fine, size * fine), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(painted)
    rng = rng_for(scene.seed, RandomUse.PHOTO, scene.number, part=_PART)
    for strokes, length, width in _LAYERS:
        grid = np.stack(np.meshgrid(np.arange(strokes), np.arange(strokes)), axis=-1).reshape(-1, 2)  # [n, 2]: x, y
        middles = np.clip((grid + rng.uniform(0, 1, grid.shape)) / strokes, 0, 1 - 1e-6)
        brightness = 1 + rng.uniform(-_UNEVEN, _UNEVEN, len(grid))
        at = (middles * size).astype(int)
        angles = turned[at[:, 1], at[:, 0]]
        ends = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * (length / 2)
        lines = np.concatenate([middles - ends, middles + ends], axis=-1) * size * fine  # [n, 4]
        shades = np.clip(colours[at[:, 1], at[:, 0]] * brightness[:, None], 0, 255).astype(int)
        for line, shade in zip(lines.tolist(), shades.tolist(), strict=True):
            draw.line(line, tuple(shade), max(1, round(width * size * fine)))
    return np.asarray(painted.resize((size, size), Image.Resampling.BOX), np.float32)


def painters_colours(canvas: Array) -> Array:
    """Makes the colours of a photo vivid, its shadows violet and its lights yellow; float32 [size, size, 3]."""
    grey = canvas.mean(axis=2, keepdims=True)
    light = np.clip(grey / 255, 0, 1)
    return grey + (canvas - grey) * _VIVID + _SHADE * (1 - light) + _LIGHT * light
