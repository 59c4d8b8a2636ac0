"""The results of a study: what every seed scored, means and spreads, and how that compares with the paper's order."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cyclegan_fast.files import write_atomically
from cyclegan_fast.studies.folder import Run, StudyFolder
from cyclegan_fast.studies.scores import read_scores
from cyclegan_fast.studies.variants import HIGHER_IS_BETTER, TASKS, Claim, Study, Task

MIN_SEEDS = 3  # below which no order is claimed: 1 of 20 orders of twice 3 values keeps them apart by chance

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
    seeds: Mapping[str, list[int]]
    """The seeds that are finished, by variant."""
    scores: Mapping[str, list[dict[str, Any]]]
    """Those of each seed, by variant: ``{"labels_to_photo": {"pixel_accuracy": 0.5, ...}, ...}``."""
    references: Mapping[str, Any]
    """``untranslated``, by task, and ``ceiling``: what the reader scores on real photos."""

    def values(self, variant: str, task: Task, metric: str) -> list[float]:
        """Returns a score of each seed."""
        return [found[task][metric] for found in self.scores.get(variant, ()) if metric in found[task]]

    def judge(self) -> list[Judged]:
        """Compares every order that the paper gives with what was found; those of variants without runs are left out.

        An order is claimed only where every seed of one variant scores better than every seed of the other one.
        """
        judged = []
        for claim in self.study.claims():
            one, other = (self.values(name, claim.task, claim.metric) for name in (claim.better, claim.worse))
            if one and other:
                means = statistics.fmean(one), statistics.fmean(other)
                judged.append(Judged(claim, means, verdict(one, other, claim.metric in HIGHER_IS_BETTER)))
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
    seeds: dict[str, list[int]] = {}
    scores: dict[str, list[dict[str, Any]]] = {}
    references: dict[str, Any] = {}
    for run in runs:
        if run.is_done:
            found = read_scores(run)
            seeds.setdefault(run.variant.name, []).append(run.seed)
            scores.setdefault(run.variant.name, []).append({task: found[task] for task in TASKS if task in found})
            references = {name: found[name] for name in ("untranslated", "ceiling")}
    return Results(study, folder.size, folder.steps, seeds, scores, references)


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
            "seeds": results.seeds[variant.name],
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


def write_results(folder: StudyFolder, study: Study, runs: Sequence[Run]) -> Results:
    """Writes the table of what is done as JSON, Markdown and HTML into the folder, and returns it.

    Raises:
        UserError: A file of scores is damaged, or nothing can be written.
    """
    from cyclegan_fast.studies.markdown import as_markdown
    from cyclegan_fast.studies.page import write_study_page

    results = collect(folder, study, runs)
    text = json.dumps(as_json(results), indent=1, allow_nan=False)
    write_atomically(folder.out / f"{study.name}.json", f"{text}\n".encode())
    write_atomically(folder.out / f"{study.name}.md", ("\n".join(as_markdown(results)) + "\n").encode())
    if results.scores:
        write_study_page(folder, results, runs)
    return results
