"""Synthetic scenes: an unpaired data set whose truth is known, so that a translator can be scored."""

from cyclegan_fast.data.scenes.layout import CLASSES, Scene, class_map, draw_scene
from cyclegan_fast.data.scenes.render import PALETTE, render_labels, render_photo
from cyclegan_fast.data.scenes.write import FACTS_NAME, TRUTH_FOLDER, render_dataset

__all__ = [
    "CLASSES",
    "FACTS_NAME",
    "PALETTE",
    "TRUTH_FOLDER",
    "Scene",
    "class_map",
    "draw_scene",
    "render_dataset",
    "render_labels",
    "render_photo",
]
