"""The results of a study as Markdown: one table for each direction, as in the paper, and where the order differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cyclegan_fast.studies.results import MIN_SEEDS, Judged, Results, mean_and_spread
from cyclegan_fast.studies.variants import METRICS, OF_THE_PAPER, TASKS, Study, Task, Variant

ARROWS = {True: "↑", False: "↓", None: ""}


def as_markdown(results: Results) -> list[str]:
    """Returns the lines."""
    lines = [protocol(results), ""]
    for task, title in TASKS.items():
        head, rows = table(results, task)
        lines += [f"**{title}**", "", _row(head), _row(["---", *["---:"] * (len(head) - 1)]), *map(_row, rows), ""]
    return lines + order_lines(results)


def protocol(results: Results) -> str:
    """Returns what was trained and compared, in a sentence or two."""
    known = {tuple(by_seed): None for by_seed in results.scores.values()}
    seeds = " or ".join(" ".join(map(str, each)) for each in known) or "none"
    return (
        f"Scenes of {results.size}x{results.size} pixels, {results.steps:,} steps of batch 1, seeds {seeds}; the mean "
        "± the standard deviation over the seeds."
        + " In parentheses the paper's number, on Cityscapes at 128x128 pixels."
        * bool(_has_paper(results.study))
    )


def table(results: Results, task: Task) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of the table of a direction."""
    metrics = results.study.metrics
    head = ["", *(f"{METRICS[metric].title} {ARROWS[METRICS[metric].higher_is_better]}".strip() for metric in metrics)]
    rows = [
        [variant.title, *(_cell(results, variant, task, metric) for metric in metrics)]
        for variant in results.study.variants
    ]
    references = results.references
    beside = {
        "untranslated": references.get("untranslated", {}).get(task, {}),
        "one map for all": references.get("one_map", {}),
        "the truth": references.get("truth", {}).get(task, {}),
    }
    rows += [
        [title, *(f"{found[metric]:.3f}" if metric in found else "" for metric in metrics)]
        for title, found in beside.items()
        if set(found) & set(metrics)
    ]
    return head, rows


def order_lines(results: Results) -> list[str]:
    """Returns in how many pairs the order is the paper's, and a line for each in which it is the reverse.

    Variants with too few seeds are left out.
    """
    known = {name for name, by_seed in results.scores.items() if len(by_seed) >= MIN_SEEDS}
    judged = [each for each in results.judge() if {each.claim.better, each.claim.worse} <= known]
    if not judged:
        return [f"With fewer than {MIN_SEEDS} seeds no order is claimed."]
    counts = Counter(each.verdict for each in judged)
    lines = [
        f"The paper orders {len(judged)} pairs of variants and scores. Here {counts['same']} are in its order by every "
        f"seed, {counts['reversed']} in the reverse one by every seed, and in {counts['undecided']} the seeds overlap: "
        "there is no claim."
    ]
    reversed_ones = [each for each in judged if each.verdict == "reversed"]
    return lines + ([""] if reversed_ones else []) + grouped(results.study, reversed_ones)


def grouped(study: Study, judged: Sequence[Judged]) -> list[str]:
    """Returns a line for each direction and pair of variants, with all scores in which they differ from the paper."""
    titles = {variant.name: variant.title for variant in study.variants}
    groups: dict[tuple[Task, str, str], list[Judged]] = {}
    for each in judged:
        groups.setdefault((each.claim.task, each.claim.better, each.claim.worse), []).append(each)
    return [
        f"- {TASKS[task]}: {titles[worse]} is better than {titles[better]} here, by "
        + ", ".join(map(_difference, found))
        for (task, better, worse), found in groups.items()
    ]


def _difference(judged: Judged) -> str:
    ours = f"{METRICS[judged.claim.metric].title} {judged.means[1]:.3f} to {judged.means[0]:.3f}"
    if judged.claim.paper is None:
        return ours
    better, worse = judged.claim.paper
    return f"{ours} (the paper: {_short(worse)} to {_short(better)})"


def _cell(results: Results, variant: Variant, task: Task, metric: str) -> str:
    values = results.values(variant.name, task, metric)
    if values:
        mean, spread = mean_and_spread(values)
        text = f"{mean:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")
    else:
        text = "-"
    if task in variant.paper and metric in OF_THE_PAPER:
        text += f" ({_short(variant.paper[task][OF_THE_PAPER.index(metric)])})"
    return text


def _short(number: float) -> str:
    """A number as the paper prints it: .52."""
    return f"{number:.2f}".removeprefix("0")


def _has_paper(study: Study) -> bool:
    return any(variant.paper for variant in study.variants) and bool(set(study.metrics) & set(OF_THE_PAPER))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
