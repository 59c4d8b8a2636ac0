"""How a photo may show a scene: daylight, and the looks that the paper's uses turn into one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Material:
    """How a part of a scene looks."""

    far: Colour  # at the top of its range: the horizon on the ground, the zenith in the sky
    near: Colour  # at the bottom of its range
    grain: float = 0.0  # contrast of its texture
    stretch: bool = False  # texture drawn out sideways: water
    lit: float = 0.0  # how much brighter the side towards the light is
    varied: float = 0.0  # how much things of this material differ in brightness
    stripes: float = 0.0  # dark stripes across a thing's width


_DAYLIGHT = {
    "sky": Material((96, 148, 214), (206, 220, 232)),
    "far_hills": Material((134, 136, 166), (142, 142, 160), grain=0.07),
    "near_hills": Material((124, 120, 124), (132, 126, 124), grain=0.09),
    "grass": Material((146, 162, 84), (122, 150, 62), grain=0.11),
    "lake": Material((122, 164, 198), (56, 102, 150), grain=0.12, stretch=True),
    "road": Material((128, 122, 116), (100, 96, 96), grain=0.08),
    "dash": Material((184, 180, 170), (190, 186, 174)),
    "shadow": Material((30, 38, 30), (30, 38, 30)),
    "wall": Material((216, 162, 120), (216, 162, 120), grain=0.05, lit=0.16, varied=0.12),
    "roof": Material((170, 72, 52), (170, 72, 52), grain=0.14, lit=0.18, varied=0.14),
    "window": Material((104, 84, 80), (104, 84, 80)),
    "trunk": Material((84, 62, 44), (84, 62, 44)),
    "crown": Material((56, 86, 44), (44, 76, 34), grain=0.24, lit=0.30, varied=0.10),
}
_WINTER = {
    "sky": Material((150, 168, 192), (222, 226, 232)),
    "far_hills": Material((206, 212, 226), (214, 218, 228), grain=0.06),
    "near_hills": Material((182, 190, 206), (196, 202, 214), grain=0.10),
    "grass": Material((226, 231, 240), (240, 243, 248), grain=0.03),
    "lake": Material((186, 208, 222), (156, 186, 206), grain=0.04),
    "roof": Material((224, 230, 240), (224, 230, 240), grain=0.04, lit=0.08),
    "crown": Material((128, 142, 148), (112, 128, 132), grain=0.30, lit=0.26, varied=0.10),
}
_STRIPED = {
    "wall": Material((232, 228, 220), (232, 228, 220), grain=0.04, lit=0.10, stripes=3.0),
    "roof": Material((232, 228, 220), (232, 228, 220), grain=0.04, lit=0.10, stripes=3.5),
}


@dataclass(frozen=True)
class Look:
    """How a photo shows a scene."""

    materials: Mapping[str, Material] = field(default_factory=lambda: _DAYLIGHT)
    noise: float = 3.0
    """Standard deviation of the sensor's noise, in levels of 255."""
    contrast: float = 1.0
    """About middle grey."""
    saturation: float = 1.0
    blur: float = 0.0
    """Standard deviation of the blur of all that is far away, in sides of the image: a shallow depth of field."""
    painted: bool = False
    """Brush strokes in a painter's colours take the place of pixels."""


DAYLIGHT = Look()
WINTER = Look({**_DAYLIGHT, **_WINTER})
STRIPED_HOUSES = Look({**_DAYLIGHT, **_STRIPED})
PAINTING = replace(DAYLIGHT, painted=True, noise=2.0)
PHONE = replace(DAYLIGHT, noise=7.0, contrast=0.70, saturation=0.75)
SHALLOW_FOCUS = replace(DAYLIGHT, noise=1.0, contrast=1.05, saturation=1.25, blur=0.03)
