"""The names of scores, and which of two values is better."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from cyclegan_fast.errors import UserError
from cyclegan_fast.metrics import METRICS, best_record, find_metric, is_better, stem


def test_scores_are_named_by_metric_and_direction() -> None:
    assert find_metric("swd_AtoB") is find_metric("swd") is METRICS["swd"]
    assert stem("cycle_l1_BtoA") == "cycle_l1"
    with pytest.raises(UserError, match="unknown score 'swd_AtB', did you mean 'swd_AtoB'"):
        find_metric("swd_AtB")
    with pytest.raises(UserError, match="unknown score 'x'; there are swd, "):
        find_metric("x")


def test_lower_is_better_of_distances_and_higher_of_similarities() -> None:
    assert is_better("swd", 1.0, 2.0) and not is_better("swd", 2.0, 1.0) and not is_better("swd", 1.0, 1.0)
    assert is_better("psnr_AtoB", 30.0, 20.0) and not is_better("psnr", 20.0, 30.0)
    for name in METRICS:
        assert is_better(name, 1.0, None) and is_better(name, 1.0, math.nan)
        assert not is_better(name, None, 1.0) and not is_better(name, math.nan, None)


def test_the_best_record_is_the_earliest_of_the_best() -> None:
    records = [{"step": i, "scores": {"swd": value}} for i, value in enumerate([None, 3.0, 1.0, math.nan, 1.0])]
    records.append({"step": 9})
    best = best_record(records, "swd")
    assert best is not None and best["step"] == 2
    assert best_record(records, "ssim") is None


def test_the_names_are_known_without_torch() -> None:
    check = "import sys, cyclegan_fast.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
