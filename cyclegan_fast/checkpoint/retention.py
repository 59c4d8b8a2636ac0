"""Which checkpoints of a run are removed when a newer one has been written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Scored(NamedTuple):
    """A checkpoint, and how good it is."""

    step: int
    scores: Mapping[str, float] = {}
    """By name."""
    protocol: str = ""
    """How they were computed: those of other protocols do not compare with them."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """The checkpoints that are kept; one that is kept for several reasons counts for each of them."""

    newest: int = 0
    """So many of the newest; 0 keeps all there are."""
    every: int = 0
    """Milestones: those whose step is a multiple of this; 0 for none."""
    best: int = 0
    """So many of the best by `score`, for each protocol."""
    score: str = ""
    higher_is_better: bool = False

    def to_remove(self, checkpoints: Sequence[Scored]) -> set[int]:
        """Returns the steps of those that are not kept; the newest always is."""
        if not self.newest:
            return set()
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        kept = {*steps[-self.newest :], *filter(self.is_milestone, steps)}
        for protocol in {checkpoint.protocol for checkpoint in checkpoints}:
            kept |= set(self.best_steps(c for c in checkpoints if c.protocol == protocol))
        return set(steps) - kept

    def is_milestone(self, step: int) -> bool:
        """Returns whether the checkpoint of this step is one; that of step 0, untrained, is not."""
        return self.every > 0 and step > 0 and step % self.every == 0

    def is_among_best(self, checkpoint: Scored, others: Iterable[Scored]) -> bool:
        """Returns whether a checkpoint beside these others is kept for its score."""
        rivals = [c for c in others if c.protocol == checkpoint.protocol and c.step != checkpoint.step]
        return checkpoint.step in self.best_steps([*rivals, checkpoint])

    def best_steps(self, checkpoints: Iterable[Scored]) -> list[int]:
        """Returns the steps of the best of one protocol, the best first; of equal ones the earlier.

        One that lacks the score, or whose score is no finite number, is none of them.
        """
        sign = -1 if self.higher_is_better else 1
        ranked = [(sign * c.scores.get(self.score, math.nan), c.step) for c in checkpoints]
        return [step for value, step in sorted(pair for pair in ranked if math.isfinite(pair[0]))[: self.best]]


KEEP_ALL = Retention()
