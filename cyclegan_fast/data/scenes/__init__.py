"""Synthetic scenes: unpaired data sets whose truth is known, so that translators can be scored."""

from cyclegan_fast.data.scenes.kinds import KINDS, Kind
from cyclegan_fast.data.scenes.layout import CLASSES, Scene, class_map, draw_scene
from cyclegan_fast.data.scenes.render import PALETTE, render_labels, render_photo
from cyclegan_fast.data.scenes.write import FACTS_NAME, TRUTH_FOLDER, render_dataset

__all__ = [
    "CLASSES",
    "FACTS_NAME",
    "KINDS",
    "PALETTE",
    "TRUTH_FOLDER",
    "Kind",
    "Scene",
    "class_map",
    "draw_scene",
    "render_dataset",
    "render_labels",
    "render_photo",
]
