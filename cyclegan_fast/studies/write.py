"""Writes the table of a study as JSON, Markdown and HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cyclegan_fast.files import write_atomically
from cyclegan_fast.studies.folder import Run, StudyFolder
from cyclegan_fast.studies.markdown import as_markdown
from cyclegan_fast.studies.page import write_study_page
from cyclegan_fast.studies.results import as_json, collect
from cyclegan_fast.studies.variants import Study


def write_results(folder: StudyFolder, study: Study, runs: Sequence[Run]) -> None:
    """Writes <study>.json, .md and .html into the folder, of the runs that are done.

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
        write_study_page(folder, results, runs)
