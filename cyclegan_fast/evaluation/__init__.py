"""Scores against ground truth."""

from cyclegan_fast.evaluation.reader import Reader, train_reader
from cyclegan_fast.evaluation.scenes import score_scenes

__all__ = ["Reader", "score_scenes", "train_reader"]
