"""The blocks of docs/python.md, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cyclegan_fast
from cyclegan_fast.api.settings import FitSettings

ROOT = Path(__file__).resolve().parents[2]


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
