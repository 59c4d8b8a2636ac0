"""What a checkpoint costs a training: for how long it holds the training thread, and what the steps beside it lose.

pytest benchmarks/bench_checkpoint.py --benchmark-only        some steps with a checkpoint of each kind, a small network
python -m benchmarks.bench_checkpoint                         the paper's networks, taking turns; writes docs/train.md
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import harness
from benchmarks.harness import DEVICE, timed_rounds
from benchmarks.results import write_between_markers
from benchmarks.step_cases import WORK, Workload, prepared
from cyclegan_fast.checkpoint.retention import Retention, Scored
from cyclegan_fast.checkpoint.saving import checkpoint_contents, write_checkpoint
from cyclegan_fast.checkpoint.snapshot import Contents
from cyclegan_fast.monitoring.machine import machine_info
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.checkpoints import RunCheckpoints
from cyclegan_fast.training.graphed_step import GraphedStep
from cyclegan_fast.training.step import CycleGANStep

PAGE = Path(__file__).resolve().parent.parent / "docs" / "train.md"
NONE, BESIDE, AT_ONCE = "no checkpoint", "beside the training", "by the training thread"
EVERY = (100, 1000, 5000)  # steps between two checkpoints


class Subject:
    """A training of random images that can save itself.

    Args:
        work: What is trained.
        folder: Where the checkpoints go.
    """

    def __init__(self, work: Workload, folder: Path) -> None:
        cuda = DEVICE.type == "cuda"
        self.config, self.saved = work.config(out=folder, amp="bf16" if cuda else "off"), 0
        networks = build_networks(work.model).to(DEVICE)
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step = CycleGANStep(networks, self.config)
        run, batches = GraphedStep(self.step) if cuda else self.step, work.batches(DEVICE, channels_last=True)
        self.run_step = prepared(lambda: run(*next(batches)), DEVICE).run
        self.checkpoints = RunCheckpoints(self.config.run, DEVICE).__enter__()

    def contents(self) -> Contents:
        self.saved += 1
        return checkpoint_contents(
            Scored(self.saved),
            networks=self.step.networks,
            config=self.config,
            progress={},
            state={"step": self.step.state_dict()},
        )

    def train(self, saving: str, steps: int) -> tuple[float, list[float]]:
        """Saves a checkpoint and trains some steps, until it is written, too.

        Returns:
            The seconds for which saving held this thread, and those of each step.
        """
        began = time.perf_counter()
        if saving == BESIDE:
            self.checkpoints.save(self.contents())
        elif saving == AT_ONCE:
            write_checkpoint(self.checkpoints.folder, self.contents(), Retention(newest=1))
        if DEVICE.type == "cuda":  # the copies, for which the next step waits
            torch.cuda.synchronize()
        held = time.perf_counter() - began
        seconds = [harness.time_once(self.run_step, DEVICE) / 1e3 for _ in range(steps)]
        self.checkpoints.writer.wait()
        return held, seconds


@pytest.mark.parametrize("saving", [NONE, BESIDE, AT_ONCE])
def test_saving(benchmark: Any, tmp_path: Path, saving: str) -> None:
    subject = Subject(WORK, tmp_path)
    benchmark.pedantic(subject.train, (saving, 4), rounds=timed_rounds(5), warmup_rounds=1)
    assert any((tmp_path / "checkpoints").glob("step_*")) == (saving != NONE)


def measure(work: Workload, steps: int, rounds: int) -> dict[str, Any]:
    """Lets the kinds of saving take turns, some steps each.

    Returns:
        All seconds by kind: of steps, and for which saving held the training thread; and the bytes of the tensors.
    """
    held: dict[str, list[float]] = {NONE: [], BESIDE: [], AT_ONCE: []}
    of_steps: dict[str, list[float]] = {name: [] for name in held}
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(work, Path(folder))

        def turn(saving: str) -> None:
            once, each = subject.train(saving, steps)
            held[saving].append(once)
            of_steps[saving].extend(each)

        cases = {saving: functools.partial(turn, saving) for saving in held}
        harness.interleave(cases, rounds=rounds, device=torch.device("cpu"), warm_up=0)
        size = len(subject.checkpoints.memory.memory)
    return {"steps": of_steps, "held": held, "bytes": size}


def page(work: Workload, steps: int, found: dict[str, Any]) -> list[str]:
    """The table, in Markdown. What a checkpoint costs: the time it holds the thread, and what its steps take longer."""
    machine = machine_info()
    step = {name: statistics.median(seconds) for name, seconds in found["steps"].items()}
    lines = [
        f"{work}; {found['bytes'] / 1e6:,.0f} MB of tensors, a checkpoint every {steps} steps, "
        f"{len(found['held'][NONE])} turns of each kind; {torch.get_num_threads()} threads on {machine['cores']} cores "
        f"of {machine['gpu'] or machine['cpu']}, where other programs were running (load {os.getloadavg()[0]:.1f}). "
        "Written by `python -m benchmarks.bench_checkpoint`.",
        "",
        f"| a checkpoint | holds the training | median step | costs at one in {', '.join(map(str, EVERY))} steps |",
        "|---|---|---|---|",
        f"| none | | {step[NONE]:.2f} s | |",
    ]
    for name in (BESIDE, AT_ONCE):
        held = statistics.median(found["held"][name]) / step[NONE]
        cost = held + max(0.0, steps * (step[name] / step[NONE] - 1))
        shares = ", ".join(f"{100 * cost / every:.2g} %" for every in EVERY)
        lines.append(f"| {name} | {held:.2f} steps | {step[name]:.2f} s | {shares} of the time |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels of the images' sides")
    parser.add_argument("--steps", type=int, default=3, help="trained in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    work = Workload(size=arguments.size)
    lines = page(work, arguments.steps, measure(work, arguments.steps, arguments.rounds))
    print("\n".join(lines))
    write_between_markers(PAGE, lines)


if __name__ == "__main__":
    main()
