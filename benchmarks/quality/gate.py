"""The gate's arithmetic: how far a case is from its baseline over the seeds, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["worse", "worse, within the spread", "undecided", "no worse"]
VERDICTS: tuple[Verdict, ...] = ("no worse", "undecided", "worse, within the spread", "worse")  # from good to bad
ALPHA = 0.05  # probability that any comparison of a table without differences fails
ENGINE_SHARE = 0.1  # of the baseline's spread, by which an engine may be worse in a seed
POWER = 0.8  # with which a difference of `Difference.detectable` fails


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A case minus its baseline in one score, by seed; positive is worse."""

    mean: float
    """Mean of the seeds' differences."""
    error: float
    """Its standard error."""
    largest: float
    """The largest of the seeds' differences; NaN if one is NaN."""
    seeds: int
    """How many seeds both have."""
    spread: float
    """Standard deviation of the baseline over its own seeds."""

    @property
    def p(self) -> float:
        """Probability of such a mean or a larger one where nothing is worse: Student's t, paired, one-sided."""
        from scipy.stats import t

        if math.isnan(self.mean):
            return 0.0
        if self.error == 0:
            return 0.0 if self.mean > 0 else 1.0
        return float(t.sf(self.mean / self.error, self.seeds - 1))

    def verdict(self, comparisons: int) -> Verdict:
        """Judges the difference as one of so many `comparisons`.

        Worse: significantly so (`ALPHA` shared among the comparisons), and the mean is above the baseline's spread. No
        worse: the upper 95 % limit of the mean is below that spread.
        """
        if self.p < ALPHA / comparisons:
            return "worse, within the spread" if self.mean <= self.spread else "worse"
        return "no worse" if self.mean + _quantile(0.95, self.seeds) * self.error < self.spread else "undecided"

    def engine_verdict(self) -> Verdict:
        """Judges what runs its baseline's very weights: no statistics, as nothing in the difference is chance.

        Worse: by more than `ENGINE_SHARE` of the baseline's spread, in any seed.
        """
        return "no worse" if self.largest <= ENGINE_SHARE * self.spread else "worse"

    def detectable(self, comparisons: int) -> float:
        """Returns the smallest difference that fails with a probability of `POWER`, in spreads of the baseline."""
        if not self.spread:
            return math.inf
        error, power = self.error / self.spread, _quantile(POWER, self.seeds)
        return max(1 + power * error, (_quantile(1 - ALPHA / comparisons, self.seeds) + power) * error)


def difference(case: Mapping[int, float], baseline: Mapping[int, float], *, higher_is_better: bool) -> Difference:
    """Compares the values of a score, by seed.

    Raises:
        ValueError: Fewer than two seeds are in both.
    """
    common = sorted(case.keys() & baseline.keys())
    if len(common) < 2:
        raise ValueError(f"a comparison needs two seeds, and there are {len(common)}")
    sign = -1.0 if higher_is_better else 1.0
    found = [sign * (case[seed] - baseline[seed]) for seed in common]
    error = standard_deviation(found) / math.sqrt(len(found))
    spread = standard_deviation(list(baseline.values()))
    mean, largest = float(np.mean(found)), float(np.max(found))
    return Difference(mean=mean, error=error, largest=largest, seeds=len(found), spread=spread)


def standard_deviation(values: Sequence[float]) -> float:
    """Returns the standard deviation that a sample suggests for what it was drawn from; NaN of NaN."""
    return float(np.std(values, ddof=1))


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Returns the worst of some verdicts."""
    return max(verdicts, key=VERDICTS.index)


def _quantile(probability: float, seeds: int) -> float:
    from scipy.stats import t

    return float(t.ppf(probability, seeds - 1))
