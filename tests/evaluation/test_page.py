"""docs/evaluate.md: its example runs, the tests that it names exist, and so do the scores and flags."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cyclegan_fast.config import DataConfig, RunConfig
from cyclegan_fast.evaluate import evaluate
from cyclegan_fast.evaluation.features import load_features
from cyclegan_fast.metrics import METRICS
from tests.smooth_images import write_smooth_images

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "evaluate.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_writes_a_feature_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = (block for block in EXAMPLES if "torch.export.save" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/evaluate.md", "exec"), {})
    network = load_features("features.pt2", torch.device("cpu"))
    assert network.size == 224 and network.extract([torch.rand(3, 50, 60)]).shape == (1, 64)


def test_the_example_computes_stored_scores_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = (block for block in EXAMPLES if "ssim" in block)
    assert len(EXAMPLES) == 2 and "cyclegan_fast" not in code
    for i, folder in enumerate(("x", "y")):
        write_smooth_images(tmp_path / folder, 4, np.random.default_rng(i))
    monkeypatch.chdir(tmp_path)
    evaluate(images=Path("x"), against=Path("y"), paired=True, limit=3, device="cpu")
    capsys.readouterr()
    exec(compile(code, "docs/evaluate.md", "exec"), {"__name__": "example"})
    again, stored = map(float, capsys.readouterr().out.split())
    assert again == pytest.approx(stored, abs=1e-6) and 0 < stored < 0.9


def test_the_tests_that_it_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert len(named) > 10 and named <= defined


def test_it_explains_every_score_and_no_flag_that_is_not_there() -> None:
    assert set(METRICS) <= set(re.findall(r"`(\w+)`", PAGE))
    settings = {field.name for config in (DataConfig, RunConfig) for field in dataclasses.fields(config)}
    known = settings | set(inspect.signature(evaluate).parameters)
    assert {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-zA-Z-]+)", PAGE)} <= known
