"""The results of all cases as JSON, the tables made of it, and the gate's verdict."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.quality.cases import BY_NAME, CASES, GATED, GRIDS, SCORES, Case, why_not
from benchmarks.quality.gate import (
    ENGINE_SHARE,
    VERDICTS,
    Difference,
    Verdict,
    difference,
    standard_deviation,
    worst,
)
from benchmarks.quality.runs import Plan, real_grid_energy
from benchmarks.results import Measured

Results = dict[str, Any]
"""``size``, ``steps``, ``lr``; ``real``, the checkerboard in the test images; ``cases``: name -> ``not_run`` (why), or
``scores``: name -> seed -> value."""
COUNTED = ("no worse", "undecided", "worse", "not run")  # always, also where there are none
BFLOAT16_LOSSES = ("cycle_A", "cycle_B", "idt_A", "idt_B", "G_A", "G_B", "D_A", "D_B")


def collect(plan: Plan, cases: list[Case], seeds: int) -> Results:
    """Gathers what has been run."""
    return {
        **{"size": plan.size, "steps": plan.steps, "lr": plan.lr, "real": real_grid_energy(plan)},
        "cases": {case.name: _collect_case(plan, case, seeds) for case in cases},
    }


def _collect_case(plan: Plan, case: Case, seeds: int) -> dict[str, Any]:
    found = {str(seed): scores for seed in range(seeds) if (scores := plan.result(case.name, seed)) is not None}
    if not found:
        return {"not_run": why_not(case) or "no time"}
    names = next(iter(found.values()))
    return {"scores": {name: {seed: scores[name] for seed, scores in found.items()} for name in names}}


def compared(results: Results, case: Case, score: str) -> Difference | None:
    """Compares a case with its baseline; None where either has not been run with two seeds that both have."""
    one, two = (_values(results, name, score) for name in (case.name, case.baseline))
    if len(one.keys() & two.keys()) < 2:
        return None
    if score in GRIDS:
        one, two = ({seed: _logarithm(value) for seed, value in values.items()} for values in (one, two))
    return difference(one, two, higher_is_better=score in SCORES and SCORES[score].higher_is_better)


def _logarithm(value: float) -> float:
    return math.log10(value) if value > 0 else math.nan


def comparisons(results: Results, scores: Sequence[str] = GATED) -> int:
    """Counts the comparisons by statistics in `scores` that can fail, which share the probability of a false alarm."""
    statistical = [case for case in CASES if scores in _families(case) and not case.engine]
    judged = [case for case in statistical if case.expected != "open" and differences(results, case, scores)]
    return max(1, len(judged) * len(scores))


def _families(case: Case) -> tuple[list[str], ...]:
    """Returns the scores of each table that a case is judged in; half of the images need not leave more of a grid."""
    return (GATED,) if case.expected == "worse" else (GATED, GRIDS)


def verdict(results: Results, case: Case) -> Verdict | None:
    """Returns the worst verdict of a case over all that it is judged by; None where there is nothing to compare."""
    found = [verdict_in(results, case, scores) for scores in _families(case)]
    judged = [one for one in found if one is not None]
    return worst(judged) if len(judged) == len(found) else None


def verdict_in(results: Results, case: Case, scores: Sequence[str]) -> Verdict | None:
    """Returns the worst verdict over some scores; None where there is nothing to compare."""
    found, count = differences(results, case, scores), comparisons(results, scores)
    return worst([one.engine_verdict() if case.engine else one.verdict(count) for one in found]) if found else None


def differences(results: Results, case: Case, scores: Sequence[str] = GATED) -> list[Difference]:
    """Compares a case with its baseline in each of some scores; empty where there is nothing to compare."""
    found = [one for score in scores if (one := compared(results, case, score)) is not None]
    return found if len(found) == len(scores) else []


def failures(results: Results) -> list[str]:
    """Returns a sentence for each case that is not as it is expected to be, and for a control without a verdict."""
    found = []
    for name in results["cases"]:
        case = BY_NAME[name]
        judged = verdict(results, case)
        if case.expected == "equal" and judged == "worse":
            by = f"{ENGINE_SHARE:g} of the seeds' spread in a seed" if case.engine else "the spread of the seeds"
            where = "" if verdict_in(results, case, GATED) == "worse" else " in the checkerboard"
            found.append(f"{name}: worse than {case.baseline}{where}, by more than {by}")
        if case.expected == "worse" and judged is None:
            found.append(f"{name}: not run, and without it nothing shows that this gate finds anything")
        elif case.expected == "worse" and judged != "worse":
            found.append(f"{name}: not found to be worse than {case.baseline}; more seeds or steps are needed")
    return found


def summary(results: Results) -> str:
    """Counts the cases by what was found: those that should be equal, the controls, the questions."""
    found: Counter[str] = Counter()
    for name, values in results["cases"].items():
        case = BY_NAME[name]
        judged = verdict(results, case)
        if "not_run" in values:
            found["not run"] += 1
        elif case.expected == "open":
            found["asked only"] += 1
        elif case.expected == "worse":
            found["control found" if judged == "worse" else "control not found"] += 1
        elif case.baseline:
            found[judged or "without a baseline"] += 1
    order = [*VERDICTS, "without a baseline", "control found", "control not found", "asked only", "not run"]
    return ", ".join(f"{found[what]} {what}" for what in order if found[what] or what in COUNTED)


def undecided(results: Results) -> list[str]:
    """Returns a line that names what should be equal and is undecided, with the losses that would have been found."""
    found = []
    for name in results["cases"]:
        case = BY_NAME[name]
        if case.expected != "equal" or verdict(results, case) != "undecided":
            continue
        least = {scores is GRIDS: _would_find(results, case, scores) for scores in _families(case)
                 if verdict_in(results, case, scores) == "undecided"}  # fmt: skip
        parts = [f"{'checkerboard ' if grid else ''}{size:.1f}" for grid, size in least.items()]
        found.append(f"{name} {', '.join(parts)}")
    if not found:
        return []
    return [
        f"{len(found)} undecided: a loss below these, in spreads of the baseline's seeds, may have been missed: "
        f"{'; '.join(found)}"
    ]


def _would_find(results: Results, case: Case, scores: Sequence[str]) -> float:
    """The smallest loss that is found in any of some scores 4 times in 5, in spreads of the baseline."""
    count = comparisons(results, scores)
    return max(one.detectable(count) for one in differences(results, case, scores))


def page_lines(measured: Measured) -> list[str]:
    """What stands between the markers of docs/quality.md."""
    (results,) = measured["results"]
    machine = measured["machine"]
    device = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores"
    return [
        f"Measured on {measured['date']} at commit {measured['commit']} on {device}, "
        f"instruction set {measured['extension']['isa']}: scenes of {results['size']} pixels, "
        f"{results['steps']} images of each domain a run, --lr {results['lr']:g}.",
        "",
        *lines_of(results),
    ]


def lines_of(results: Results) -> list[str]:
    """The tables, in Markdown."""
    return [
        *_score_table(results),
        "",
        *_gate_table(results, GATED),
        "",
        *_gate_table(results, GRIDS),
        "",
        *(f"{line}.  " for line in undecided(results)),
        "",
        *_engine_table(results),
        *_bfloat16_table(results),
        *_not_run(results),
        "",
    ]


def _score_table(results: Results) -> list[str]:
    lines = [_row(["case", "seeds", *(score.title for score in SCORES.values())]), _row(["---"] * (2 + len(SCORES)))]
    for name, found in results["cases"].items():
        if "scores" in found:
            of_case = [_values(results, name, score) for score in SCORES]
            lines.append(_row([name, str(len(of_case[0])), *map(_mean_and_spread, of_case)]))
    real = (f"{results['real'][score]:.2f}" if score in results["real"] else "" for score in SCORES)
    return [*lines, _row(["the real test images", "", *real])]


def _gate_table(results: Results, scores: list[str]) -> list[str]:
    """The cases that are trained, beside their baselines, in some scores."""
    titles = [SCORES[score].title for score in scores]
    lines = [_row(["case", "against", "expected", *titles, "verdict", "would find"]), _row(["---"] * (5 + len(scores)))]
    count = comparisons(results, scores)
    for name in results["cases"]:
        case, found = BY_NAME[name], differences(results, BY_NAME[name], scores)
        if not found or case.engine or scores not in _families(case):
            continue
        cells = [_in_spreads(one, count) for one in found]
        expected = {"equal": "equal", "worse": "worse", "open": "a question"}[case.expected]
        judged = f"**{verdict_in(results, case, scores)}**"
        would_find = f"{_would_find(results, case, scores):.1f}"
        lines.append(_row([name, str(case.baseline), expected, *cells, judged, would_find]))
    return lines


def _engine_table(results: Results) -> list[str]:
    """The largest loss of each engine in any seed, in spreads of what trained its weights."""
    lines = []
    for name in results["cases"]:
        case, found = BY_NAME[name], differences(results, BY_NAME[name], [*SCORES])
        if found and case.engine:
            cells = [f"{one.largest / one.spread if one.spread else one.largest:+.3f}" for one in found]
            lines.append(_row([name, str(found[0].seeds), *cells, f"**{verdict(results, case)}**"]))
    if not lines:
        return []
    titles = ["largest loss in a seed", "seeds", *(score.title for score in SCORES.values()), "verdict"]
    return [_row(titles), _row(["---"] * len(titles)), *lines, ""]


def _bfloat16_table(results: Results) -> list[str]:
    """The losses of training in bfloat16 beside those of float32."""
    bf16 = BY_NAME["bf16"]
    lines = []
    for loss in BFLOAT16_LOSSES:
        found = compared(results, bf16, f"loss_{loss}")
        if found is not None:
            one, two = (_mean_and_spread(_values(results, name, f"loss_{loss}")) for name in ("fp32", "bf16"))
            t = found.mean / found.error if found.error else math.nan
            percent = 100 * found.mean / statistics.fmean(_values(results, "fp32", f"loss_{loss}").values())
            cells = [loss, one, two, f"{found.mean:+.4f} ± {found.error:.4f}", f"{percent:+.1f} %", f"{t:+.1f}"]
            lines.append(_row([*cells, f"{found.mean / found.spread:+.1f}"]))
    if not lines:
        return []
    titles = ["loss, last fifth", "fp32", "bf16", "difference ± its standard error", "", "t", "in spreads of fp32"]
    return [_row(titles), _row(["---"] * len(titles)), *lines, ""]


def _not_run(results: Results) -> list[str]:
    """Names what was not run, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, found in results["cases"].items():
        if "not_run" in found:
            reasons.setdefault(found["not_run"], []).append(name)
    return [f"Not run, {reason}: {'; '.join(names)}.  " for reason, names in reasons.items()]


def _values(results: Results, case: str | None, score: str) -> dict[int, float]:
    found = results["cases"].get(case, {}).get("scores", {}).get(score, {})
    return {int(seed): value for seed, value in found.items()}


def _mean_and_spread(values: dict[int, float]) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values.values())
    digits = 4 if abs(mean) < 1 else 2
    spread = f" ± {standard_deviation(list(values.values())):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{spread}"


def _in_spreads(found: Difference, count: int) -> str:
    """The difference and its standard error in the baseline's spread; bold where it counts as worse."""
    if not found.spread:
        return f"{found.mean:+.4f}"
    text = f"{found.mean / found.spread:+.1f} ± {found.error / found.spread:.1f}"
    return f"**{text}**" if found.verdict(count) == "worse" else text


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
