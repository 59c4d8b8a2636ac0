"""--detect-anomaly on a GPU: gradients are looked at inside the graph, and a step is replayed beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyclegan_fast.errors import UserError
from cyclegan_fast.training.graphed_step import WARM_UP_STEPS
from cyclegan_fast.training.trainer import Trainer
from tests.mock_cuda import runtime
from tests.mock_cuda.test_trainer import STEPS, by_step, images, trainer

__all__ = ["images"]


def test_gradients_are_looked_at_inside_the_graph(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_stop_unless_finite", lambda run: None)  # no value of the mock means anything
    run = trainer(images, tmp_path / "run", "--max-steps", STEPS, "--detect-anomaly", "--amp", "bf16")
    with runtime.recorded() as calls:
        assert run.run() == 0
    assert len(by_step(calls)) == STEPS - WARM_UP_STEPS and runtime.take_faults() == []


def test_a_step_is_replayed_beside_the_graph(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update that counts as skipped, and results that are all read as finite."""
    run = trainer(images, tmp_path / "run", "--max-steps", STEPS, "--detect-anomaly")
    monkeypatch.setattr(run.meter, "skipped", lambda: ["the generators"] * (run.done == WARM_UP_STEPS + 2))
    with pytest.raises(UserError, match=r"step 5: a gradient is not finite; .* are finite when it is replayed"):
        run.run()
    assert runtime.take_faults() == []
