"""Which images stand out: each of their scores against the distribution of others, by median and MAD."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

MIN_IMAGES = 8  # a distribution of fewer says nothing
LIMIT = 3.5  # robust standard deviations; Iglewicz and Hoaglin 1993
_MAD_TO_SD = 1.4826  # of a normal distribution
_MIN_SPREAD = 0.02  # of log errors, correlations and bits: a smaller difference is none
_SMALLEST = 0.1 / 255  # errors below are alike


class Rule(NamedTuple):
    """How a score is compared."""

    higher_is_worse: bool
    in_log: bool
    """Errors are: twice the usual one is as far as half of it."""
    reason: str


RULES = {
    "cycle": Rule(True, True, "large cycle error"),
    "after_noise": Rule(True, True, "large error after noise"),
    "hidden": Rule(True, True, "hides more than others"),
    "gradient_correlation": Rule(False, False, "edges moved or vanished"),
    "mutual_information": Rule(False, False, "brightness unrelated"),
}


@dataclass(frozen=True)
class Distribution:
    """The median and the robust standard deviation of each score of a set of images."""

    count: int
    centres: Mapping[str, float]
    spreads: Mapping[str, float]

    @classmethod
    def of(cls, scores: Sequence[Mapping[str, float]]) -> Distribution:
        """Returns the distribution of images' scores, by the names of `RULES`; NaN is left out."""
        centres, spreads = {}, {}
        for name in RULES:
            values = [value for one in scores if not math.isnan(value := _comparable(name, one[name]))]
            if values:
                centres[name] = median(values)
                deviation = median(abs(value - centres[name]) for value in values)
                spreads[name] = max(_MAD_TO_SD * deviation, _MIN_SPREAD)
        return cls(len(scores), centres, spreads)

    def deviations(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Returns how many standard deviations each score of an image is worse than the median; infinity for NaN."""
        found = {}
        for name, centre in self.centres.items():
            worse = (_comparable(name, scores[name]) - centre) / self.spreads[name]
            worse = worse if RULES[name].higher_is_worse else -worse
            found[name] = math.inf if math.isnan(worse) else worse
        return found

    def reasons(self, scores: Mapping[str, float]) -> list[str]:
        """Returns why an image stands out; empty if it does not, or if there are fewer than 8 to compare it with."""
        if self.count < MIN_IMAGES:
            return []
        return [
            f"{RULES[name].reason} ({worse:.1f} sd)" if math.isfinite(worse) else "not a number"
            for name, worse in self.deviations(scores).items()
            if worse > LIMIT
        ]


def _comparable(name: str, value: float) -> float:
    return math.log(max(value, _SMALLEST)) if RULES[name].in_log and not math.isnan(value) else value
