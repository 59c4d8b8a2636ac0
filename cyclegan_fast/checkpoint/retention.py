"""Which checkpoints of a run are removed when a newer one has been written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Scores = Mapping[str, float]  # by name
Scored = tuple[int, Scores]  # a checkpoint: its step and its scores


@dataclass(frozen=True, kw_only=True)
class Retention:
    """The checkpoints that are kept; one that is kept for several reasons counts for each of them."""

    newest: int = 0
    """So many of the newest; 0 keeps all there are."""
    every: int = 0
    """Milestones: those whose step is a multiple of this; 0 for none."""
    best: int = 0
    """So many of the best by `score`."""
    score: str = ""
    higher_is_better: bool = False

    def to_remove(self, checkpoints: Sequence[Scored]) -> set[int]:
        """Returns the steps of those that are not kept; the newest always is."""
        if not self.newest:
            return set()
        steps = sorted(step for step, _ in checkpoints)
        kept = {*steps[-self.newest :], *self.best_steps(checkpoints), *filter(self.is_milestone, steps)}
        return set(steps) - kept

    def is_milestone(self, step: int) -> bool:
        """Returns whether the checkpoint of this step is one; that of step 0, untrained, is not."""
        return self.every > 0 and step > 0 and step % self.every == 0

    def is_among_best(self, checkpoint: Scored, others: Sequence[Scored]) -> bool:
        """Returns whether a checkpoint beside these others is kept for its score."""
        return checkpoint[0] in self.best_steps([*(other for other in others if other[0] != checkpoint[0]), checkpoint])

    def best_steps(self, checkpoints: Sequence[Scored]) -> list[int]:
        """Returns the steps of the best, the best first; of equal ones the earlier.

        One that lacks the score, or whose score is no finite number, is none of them.
        """
        sign = -1 if self.higher_is_better else 1
        ranked = [(sign * scores.get(self.score, math.nan), step) for step, scores in checkpoints]
        return [step for value, step in sorted(pair for pair in ranked if math.isfinite(pair[0]))[: self.best]]


KEEP_ALL = Retention()
