"""docs/evaluate.md: its example runs, the tests that it names exist, and so do the scores and flags."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch

from cyclegan_fast.config import RunConfig
from cyclegan_fast.evaluate import evaluate
from cyclegan_fast.evaluation.features import load_features
from cyclegan_fast.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "evaluate.md").read_text("utf-8")


def test_the_example_writes_a_feature_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/evaluate.md", "exec"), {})
    network = load_features("features.pt2", torch.device("cpu"))
    assert network.size == 224 and network.extract([torch.rand(3, 50, 60)]).shape == (1, 64)


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
    settings = {field.name for field in dataclasses.fields(RunConfig)} | {"data", "paired"}
    known = settings | set(inspect.signature(evaluate).parameters)
    assert {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", PAGE)} <= known
