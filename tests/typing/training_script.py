"""A user's script for type checkers: `fit` knows every keyword with its type. tests/typing checks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import cyclegan_fast
from cyclegan_fast import Engine, Run, TrainConfig, fit


def train(images: Path) -> Run:
    run = fit(data=images, out="runs/a", lr=1e-4, batch_size=2, amp=True, cuda_graphs="auto", max_steps=None)
    assert_type(run, Run)
    return fit(config=run.config, data_A=["a", images], data_B="b", resume="auto", on_log=watch, progress=False)


def watch(record: dict[str, Any]) -> bool:
    return bool(record["losses"]["cycle_A"] > 0.1)


def look(run: Run) -> float:
    assert_type(run.out, Path)
    assert_type(run.checkpoint, Path | None)
    assert_type(run.report, Path | None)
    assert_type(run.samples, list[Path])
    assert_type(run.finished, bool)
    assert_type(run.config, TrainConfig)
    assert_type(run.engine("BtoA", device="cpu", precision="bf16"), Engine)
    losses: npt.NDArray[np.float64] = run.losses["G_A"]
    steps: npt.NDArray[np.int64] = run.steps
    return float(losses[-10:].mean()) + int(steps[-1]) + cyclegan_fast.Run("runs/a").refresh().step


def wrong(run: Run) -> None:
    fit(lrr=1e-4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    fit(lr="fast")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fit(amp="fp8")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fit("horse2zebra")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    fit(on_log=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    run.engine("AtoC")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
