"""Scores against ground truth."""

from cyclegan_fast.evaluation.reader import Reader, train_reader
from cyclegan_fast.evaluation.scenes import SceneTests, load_scene_tests, score_scenes

__all__ = ["Reader", "SceneTests", "load_scene_tests", "score_scenes", "train_reader"]
