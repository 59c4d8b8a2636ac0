"""The results of a study: what every seed scored, means and spreads, and how that compares with the paper's order."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cyclegan_fast.studies.folder import Run, StudyFolder
from cyclegan_fast.studies.scores import read_scores
from cyclegan_fast.studies.variants import METRICS, TASKS, Claim, Study, Task

MIN_SEEDS = 3  # below which no order is claimed: 1 of 20 orders of twice 3 values keeps them apart by chance

REFERENCES = ("untranslated", "one_map", "truth")

Verdict = Literal["same", "reversed", "undecided"]


@dataclass(frozen=True)
class Judged:
    """A claim of the paper beside what was found here."""

    claim: Claim
    means: tuple[float, float]
    """Ours, of the better and the worse one."""
    verdict: Verdict


@dataclass(frozen=True)
class Results:
    """What the finished runs of a study scored."""

    study: Study
    size: int
    steps: int
    scores: Mapping[str, Mapping[int, dict[str, Any]]]
    """By variant and seed: ``{"labels_to_photo": {"pixel_accuracy": 0.5, ...}, ...}``."""
    references: Mapping[str, Any]
    """``untranslated`` and ``truth``, by task, and ``one_map``, the best answer that is the same for all scenes."""

    def values(self, variant: str, task: Task, metric: str) -> list[float]:
        """Returns a score of each seed."""
        by_seed = self.scores.get(variant, {})
        return [found[task][metric] for found in by_seed.values() if metric in found.get(task, {})]

    def judge(self) -> list[Judged]:
        """Compares every order that the paper gives with what was found; those of variants without runs are left out.

        An order is claimed only where every seed of one variant scores better than every seed of the other one.
        """
        judged = []
        for claim in self.study.claims():
            one, other = (self.values(name, claim.task, claim.metric) for name in (claim.better, claim.worse))
            if one and other:
                means = statistics.fmean(one), statistics.fmean(other)
                judged.append(Judged(claim, means, verdict(one, other, METRICS[claim.metric].higher_is_better is True)))
        return judged


def verdict(better: Sequence[float], worse: Sequence[float], higher_is_better: bool) -> Verdict:
    """Returns whether the seeds of two variants keep the order of the paper, reverse it, or overlap.

    Args:
        better: The scores of the variant that is better in the paper, one of each seed.
        worse: Those of the other one.
        higher_is_better: Whether a higher score is a better one.
    """
    if min(len(better), len(worse)) < MIN_SEEDS:
        return "undecided"
    if not higher_is_better:
        better, worse = [-value for value in better], [-value for value in worse]
    if min(better) > max(worse):
        return "same"
    return "reversed" if max(better) < min(worse) else "undecided"


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and the sample standard deviation, which is None of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def collect(folder: StudyFolder, study: Study, runs: Sequence[Run]) -> Results:
    """Reads the scores of the runs that are done.

    Raises:
        UserError: A file of scores is damaged.
    """
    scores: dict[str, dict[int, dict[str, Any]]] = {}
    references: dict[str, Any] = {}
    for run in runs:
        if run.is_done:
            found = read_scores(run)
            by_seed = scores.setdefault(run.variant.name, {})
            by_seed.setdefault(run.seed, {}).update({task: found[task] for task in run.tasks})
            references = {name: found[name] for name in REFERENCES}
    return Results(study, folder.size, folder.steps, scores, references)


def as_json(results: Results) -> dict[str, Any]:
    """Returns everything as plain values: each seed's scores, means, spreads, the paper's numbers and the verdicts."""
    variants = {}
    for variant in results.study.variants:
        if variant.name not in results.scores:
            continue
        summary = {
            task: {
                metric: dict(zip(("mean", "spread"), mean_and_spread(values), strict=True))
                for metric in results.study.metrics
                if (values := results.values(variant.name, task, metric))
            }
            for task in TASKS
        }
        variants[variant.name] = {
            "title": variant.title,
            "settings": dict(variant.settings),
            "scores": results.scores[variant.name],
            "summary": summary,
            "paper": {task: list(numbers) for task, numbers in variant.paper.items()},
        }
    order = [
        {
            "task": judged.claim.task,
            "metric": judged.claim.metric,
            "better_in_the_paper": judged.claim.better,
            "worse_in_the_paper": judged.claim.worse,
            "paper": judged.claim.paper,
            "means": judged.means,
            "verdict": judged.verdict,
        }
        for judged in results.judge()
    ]
    head = {"study": results.study.name, "size": results.size, "steps": results.steps}
    return {**head, "variants": variants, "references": results.references, "order": order}
