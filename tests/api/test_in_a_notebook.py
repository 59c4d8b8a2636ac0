"""`fit` in the kernel of a notebook: what a cell shows, and what an interrupt and an error do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cyclegan_fast import Run
from cyclegan_fast.api.settings import FitSettings

ROOT = Path(__file__).resolve().parents[2]


def run_cells(folder: Path, *cells: str) -> list[list[dict[str, Any]]]:
    """Runs code in a kernel of its own; returns the outputs of each cell."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=300, allow_errors=True, resources=resources).execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.mark.slow
def test_a_cell_shows_progress_and_grids_and_survives_interrupts_and_errors(
    small: FitSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    setup = f"import os, signal, cyclegan_fast\nsmall = {dict(small, data=str(small['data']))}"
    finished, shown, interrupted, failed = run_cells(
        tmp_path,
        f"{setup}\nrun = cyclegan_fast.fit(**small, out='run', max_steps=5)",
        "run",
        "cyclegan_fast.fit(**small, out='other', max_steps=9, on_log=lambda _: os.kill(os.getpid(), signal.SIGINT))",
        "cyclegan_fast.fit(**small, out='run', max_steps=5)",
    )
    displays = [output["data"] for output in finished if output["output_type"] == "display_data"]
    assert len(displays) == 2  # each was replaced, and so stands once
    assert "5/5" in displays[0]["text/plain"] and "5/5" in displays[0]["text/html"]
    assert "image/jpeg" in displays[1]
    assert shown[0]["data"]["text/html"].startswith("<iframe")
    assert interrupted[-1]["data"]["text/plain"] == "Run('other'): step 1 of 9, stopped"
    assert Run(tmp_path / "other").checkpoint is not None
    assert failed[-1]["ename"] == "UserError"
    assert failed[-1]["traceback"] == [
        "UserError: run holds a run already: continue it with resume=True, or choose another out"
    ]
