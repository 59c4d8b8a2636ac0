"""What a study writes: every number as JSON, the tables as Markdown, and a page of both with images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from cyclegan_fast.files import write_atomically
from cyclegan_fast.monitoring.grids import to_image
from cyclegan_fast.monitoring.markup import el
from cyclegan_fast.monitoring.page import ImageBlock, image_cards, section, table_card, write_page
from cyclegan_fast.studies.folder import Run, StudyFolder
from cyclegan_fast.studies.markdown import as_markdown, order_lines, protocol, table
from cyclegan_fast.studies.results import Results, as_json, collect
from cyclegan_fast.studies.scores import read_strip, shown_scenes
from cyclegan_fast.studies.variants import TASKS, Study, Task


def write_results(folder: StudyFolder, study: Study, runs: Sequence[Run]) -> None:
    """Writes <study>.json, .md and, of any run that is done, .html into the folder.

    Args:
        folder: What the runs share.
        study: The table.
        runs: All its runs.

    Raises:
        UserError: A file of scores is damaged, or nothing can be written.
    """
    results = collect(folder, study, runs)
    text = json.dumps(as_json(results), indent=1, allow_nan=False)
    write_atomically(folder.out / f"{study.name}.json", f"{text}\n".encode())
    write_atomically(folder.out / f"{study.name}.md", ("\n".join(as_markdown(results)) + "\n").encode())
    if results.scores:
        _write_page(folder, results, runs)


def _write_page(folder: StudyFolder, results: Results, runs: Sequence[Run]) -> None:
    """Tables, where the order differs, and what each variant makes of the same test scenes."""
    study = results.study
    header = el(
        "header",
        el("h1", study.title),
        el("p", f"The paper's {study.source}, trained again. {protocol(results)}", class_="summary"),
    )
    done = [run for run in runs if run.is_done]
    write_page(
        folder.out / f"{study.name}.html",
        study.title,
        header,
        *(section(title, _table(results, task)) for task, title in TASKS.items()),
        _order(results),
        *(section(f"Test scenes, {title}", *_images(folder, done, task)) for task, title in TASKS.items()),
        el("footer", "Made by cyclegan_fast. Scores are those of the last step, on scenes that no run has trained on."),
    )


def _table(results: Results, task: Task) -> Element:
    head, rows = table(results, task)
    lines = [el("tr", el("th", row[0], scope="row"), *(el("td", cell) for cell in row[1:])) for row in rows]
    return table_card(head, lines)


def _order(results: Results) -> Element | None:
    lines = [line for line in order_lines(results) if line]
    if not lines:
        return None
    items = [el("li", line.removeprefix("- ")) for line in lines if line.startswith("- ")]
    texts = [el("p", line) for line in lines if not line.startswith("- ")]
    return section("The paper's order", *texts, el("ul", *items) if items else None)


def _images(folder: StudyFolder, runs: Sequence[Run], task: Task) -> list[Element]:
    """A card for each seed: a row for each scene, its input, what each variant makes of it, and the truth."""
    inputs, truth = ([to_image(image) for image in side] for side in shown_scenes(folder, task))
    blocks = []
    for seed in dict.fromkeys(run.seed for run in runs):
        of_seed = [run for run in runs if run.seed == seed and task in run.tasks]
        if not of_seed:
            continue
        strips = [read_strip(run.folder / f"{task}.png", len(inputs)) for run in of_seed]
        columns = ["input", *(run.variant.title for run in of_seed), "truth"]
        rows = [list(row) for row in zip(inputs, *strips, truth, strict=True)]
        blocks.append(ImageBlock(title=f"Seed {seed}", columns=columns, rows=rows))
    return [image_cards(blocks, scroll=True)]
