"""The example notebook and the blocks of docs/python.md, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cyclegan_fast
from cyclegan_fast.api.settings import FitSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "train_and_translate.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # stripped
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    kinds = {name: [set(output.get("data", {})) for output in outputs] for name, outputs in shown.items()}
    assert {"text/plain", "image/jpeg"} in kinds["fit"]  # the grid
    assert "80/80" in text_of(shown["fit"])
    assert re.search(r"^no data: training on .* rendered scenes of 64x64", text_of(shown["fit"]), re.MULTILINE)
    assert "step 80 of 80, finished" in shown["show"][0]["data"]["text/html"]
    assert "G_A" in text_of(shown["losses"]) and "at step 80" in text_of(shown["losses"])
    assert "step 120 of 120, finished" in text_of(shown["continue"])
    assert [("image/png" in kind) for kind in kinds["display"]] == [True] * 4


def text_of(outputs: list[Any]) -> str:
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)


def test_the_blocks_of_the_page_run(small: FitSettings, images: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """One after the other, as a reader would type them; settings that a block leaves out are tiny ones."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "horse2zebra").symlink_to(images)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save("horse.jpg")
    tiny = {"max_steps": 2, **{name: value for name, value in small.items() if name != "data"}}
    fit = cyclegan_fast.fit
    monkeypatch.setattr(
        cyclegan_fast, "fit", lambda **given: fit(**given if "config" in given else tiny | given), raising=False
    )
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert Path("zebra.png").is_file()
    assert len(names["runs"]) == 2
