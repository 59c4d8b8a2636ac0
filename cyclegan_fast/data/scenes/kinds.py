"""The data sets that can be rendered: what each of their two domains shows of a scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cyclegan_fast.data.scenes.layout import Scene, class_map, with_houses_alone, with_trees_alone
from cyclegan_fast.data.scenes.looks import DAYLIGHT, PAINTING, PHONE, SHALLOW_FOCUS, STRIPED_HOUSES, WINTER, Look
from cyclegan_fast.data.scenes.render import render_labels, render_photo

Renderer = Callable[[Scene, int], npt.NDArray[np.uint8]]  # (scene, side in pixels) -> [side, side, 3]


@dataclass(frozen=True)
class Kind:
    """A data set of scenes."""

    A: str
    """What domain A shows, for people."""
    B: str
    render_A: Renderer
    render_B: Renderer
    render_truth: Renderer = class_map
    """The class of every pixel in domain A, uint8 [side, side]."""


def _photo(look: Look, change: Callable[[Scene], Scene] = lambda scene: scene) -> Renderer:
    return lambda scene, size: render_photo(change(scene), size, look)


KINDS: dict[str, Kind] = {
    "labels": Kind("label maps", "photos", render_labels, _photo(DAYLIGHT)),
    "style": Kind("paintings", "photos", _photo(PAINTING), _photo(DAYLIGHT)),
    "transfiguration": Kind("plain houses", "striped houses", _photo(DAYLIGHT), _photo(STRIPED_HOUSES)),
    "seasons": Kind("summer", "winter", _photo(DAYLIGHT), _photo(WINTER)),
    "enhancement": Kind("noisy, flat photos", "clean photos out of focus behind", _photo(PHONE), _photo(SHALLOW_FOCUS)),
    "geometry": Kind(
        *("houses", "trees"),
        *(_photo(DAYLIGHT, with_houses_alone), _photo(DAYLIGHT, with_trees_alone)),
        lambda scene, size: class_map(with_houses_alone(scene), size),
    ),
}
