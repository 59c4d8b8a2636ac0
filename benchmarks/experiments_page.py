"""python -m benchmarks.experiments_page OUT: puts the tables of cyclegan_fast.experiments into docs/experiments.md.

The numbers go to docs/results/experiments.json, with when, where and of which commit each study was measured, and some
images of the first seed to docs/images. A test makes the page's tables again from these numbers. Run it at the commit
and on the machine of the runs: new numbers get the date, commit and machine of now, and unchanged ones keep their own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.results import Measured, origin_line, stamped, write_json
from cyclegan_fast.monitoring.grids import sample_grid, save_grid, to_image
from cyclegan_fast.studies.folder import StudyFolder
from cyclegan_fast.studies.markdown import as_markdown
from cyclegan_fast.studies.results import MIN_SEEDS, Results
from cyclegan_fast.studies.scores import read_strip, shown_scenes
from cyclegan_fast.studies.variants import STUDIES, TASKS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, NUMBERS = DOCS / "experiments.md", DOCS / "results" / "experiments.json"
SCENES, SIDE = 3, 128  # of each direction, and pixels
COLOURS = 128  # of an image, which then stays below 100 kB


def results_of(found: dict[str, Any]) -> Results:
    """Returns the results that a study has written as JSON."""
    scores = {
        name: {int(seed): by_task for seed, by_task in variant["scores"].items()}
        for name, variant in found["variants"].items()
    }
    return Results(STUDIES[found["study"]], found["size"], found["steps"], scores, found["references"])


def updated(numbers: dict[str, Measured], out: Path) -> dict[str, Measured]:
    """Returns the numbers with those of the studies in the folder `out`, stamped where they are new."""
    updated = dict(numbers)
    for name in STUDIES:
        if (path := out / f"{name}.json").is_file():
            results = [json.loads(path.read_text())]
            if name not in numbers or numbers[name]["results"] != results:
                updated[name] = stamped(results)
    return updated


def repeated(found: dict[str, Any]) -> list[str]:
    """Returns a sentence on the orders that the first half of the seeds claims: what the second half says of them.

    Nothing where a half has fewer than three seeds, or claims nothing.
    """
    seeds = sorted({int(seed) for variant in found["variants"].values() for seed in variant["scores"]})
    halves = seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]
    if len(halves[0]) < MIN_SEEDS:
        return []
    pairs = list(zip(*(_of_seeds(found, half).judge() for half in halves), strict=True))
    claimed = [(one.verdict, other.verdict) for one, other in pairs if one.verdict != "undecided"]
    if not claimed:
        return []
    same, overlap = sum(one == other for one, other in claimed), sum(other == "undecided" for _, other in claimed)
    turned = len(claimed) - same - overlap
    first, second = (" ".join(map(str, half)) for half in halves)
    return [
        "",
        f"Seeds {second} repeat the experiment: of the {len(claimed)} orders that seeds {first} claim alone, the "
        f"paper's or the reverse, they claim {same} as well; in {overlap} they overlap, and {turned} are turned round.",
    ]


def _of_seeds(found: dict[str, Any], seeds: list[int]) -> Results:
    """The results with these seeds alone."""
    variants = {
        name: variant | {"scores": {seed: scores for seed, scores in variant["scores"].items() if int(seed) in seeds}}
        for name, variant in found["variants"].items()
    }
    return results_of(found | {"variants": variants})


def with_tables(page: str, numbers: dict[str, Measured]) -> str:
    """Returns the text of the page with the table of each study between its markers."""
    for name, measured in numbers.items():
        (found,) = measured["results"]
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        head, _, rest = page.partition(begin)
        _, marker, tail = rest.partition(end)
        if not marker:
            raise SystemExit(f"the markers {begin.strip()} and {end.strip()} are missing")
        table = [*as_markdown(results_of(found)), *repeated(found), "", f"{origin_line(measured)}."]
        page = "\n".join([head + begin, *table, "", end]) + tail
    return page


def draw(out: Path, found: dict[str, Any]) -> Image.Image:
    """Draws test scenes, both ways, as each variant translates them with its first seed."""
    study = STUDIES[found["study"]]
    variants = [variant for variant in study.variants if variant.name in found["variants"]]
    folder = StudyFolder(out, found["size"], found["steps"])
    rows: list[list[Image.Image]] = []
    for task in TASKS:
        inputs, truth = ([to_image(image) for image in side] for side in shown_scenes(folder, task))
        strips = []
        for variant in variants:
            seed = min(map(int, found["variants"][variant.name]["scores"]))
            (run,) = [run for run in folder.runs([variant], [seed]) if task in run.tasks]
            strips.append(read_strip(run.folder / f"{task}.png", len(inputs)))
        rows += [list(row) for row in zip(inputs, *strips, truth, strict=True)][:SCENES]
    shown = [[image.resize((SIDE, SIDE), Image.Resampling.NEAREST) for image in row] for row in rows]
    return sample_grid(shown, ["input", *(variant.title for variant in variants), "truth"])


def main() -> None:
    """Reads every table in the folder."""
    out = Path(sys.argv[1])
    numbers = updated(json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}, out)
    write_json(NUMBERS, numbers)
    page = PAGE.read_text("utf-8")
    for name, measured in numbers.items():
        (found,) = measured["results"]
        image = f"images/experiments_{name}.png"
        if image in page and (out / f"{name}.json").is_file():
            save_grid(DOCS / image, draw(out, found).quantize(COLOURS))
    PAGE.write_text(with_tables(page, numbers), "utf-8")


if __name__ == "__main__":
    main()
