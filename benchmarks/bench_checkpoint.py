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
from typing import Any, NamedTuple

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


class Turn(NamedTuple):
    """Seconds of one turn."""

    held: float
    """For which saving held the training."""
    work: float
    """CPU time of all threads for a checkpoint."""
    of_steps: list[float]
    cpu_of_steps: list[float]


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

    def save(self, saving: str) -> None:
        """Returns when the training may go on."""
        if saving == BESIDE:
            self.checkpoints.save(self.contents())
        elif saving == AT_ONCE:
            write_checkpoint(self.checkpoints.folder, self.contents(), Retention(newest=1))
        if DEVICE.type == "cuda":  # the copies, for which the next step waits
            torch.cuda.synchronize()

    def train(self, saving: str, steps: int) -> Turn:
        """Saves a checkpoint and trains some steps, until it is written, too; then saves another one without a step."""
        began = time.perf_counter()
        self.save(saving)
        held = time.perf_counter() - began
        of_steps, cpu_of_steps = [], []
        for _ in range(steps):
            cpu = time.process_time()
            of_steps.append(harness.time_once(self.run_step, DEVICE) / 1e3)
            cpu_of_steps.append(time.process_time() - cpu)
        self.checkpoints.writer.wait()
        cpu = time.process_time()
        self.save(saving)
        self.checkpoints.writer.wait()
        return Turn(held, time.process_time() - cpu, of_steps, cpu_of_steps)


@pytest.mark.parametrize("saving", [NONE, BESIDE, AT_ONCE])
def test_saving(benchmark: Any, tmp_path: Path, saving: str) -> None:
    subject = Subject(WORK, tmp_path)
    benchmark.pedantic(subject.train, (saving, 4), rounds=timed_rounds(5), warmup_rounds=1)
    assert any((tmp_path / "checkpoints").glob("step_*")) == (saving != NONE)


def measure(work: Workload, steps: int, rounds: int) -> tuple[dict[str, list[Turn]], int]:
    """Lets the kinds of saving take turns, some steps each; returns the turns by kind, and the bytes of the tensors."""
    turns: dict[str, list[Turn]] = {NONE: [], BESIDE: [], AT_ONCE: []}
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(work, Path(folder))
        cases = {name: functools.partial(lambda n: turns[n].append(subject.train(n, steps)), name) for name in turns}
        harness.interleave(cases, rounds=rounds, device=torch.device("cpu"), warm_up=0)
        return turns, len(subject.checkpoints.memory.memory)


def page(work: Workload, steps: int, turns: dict[str, list[Turn]], size: int) -> list[str]:
    """The table, in Markdown, of medians; on a CPU a checkpoint costs at most all its CPU time."""
    machine = machine_info()
    step = {name: statistics.median(s for turn in found for s in turn.of_steps) for name, found in turns.items()}
    cpu_step = statistics.median(s for turn in turns[NONE] for s in turn.cpu_of_steps)
    often = ", ".join(map(str, EVERY))
    lines = [
        f"{work}; {size / 1e6:,.0f} MB of tensors, a checkpoint every {steps} steps, {len(turns[NONE])} turns of each "
        f"kind; torch's threads: {torch.get_num_threads()}, on {machine['cores']} cores of "
        f"{machine['gpu'] or machine['cpu']}, where other programs were running (load "
        f"{os.getloadavg()[0]:.1f}); a step takes {cpu_step:.1f} s of CPU time. "
        "Written by `python -m benchmarks.bench_checkpoint`.",
        "",
        f"| a checkpoint | holds the training | CPU time | costs at most, one in {often} steps | median step |",
        "|---|---|---|---|---|",
        f"| none | | | | {step[NONE]:.1f} s |",
    ]
    for name in (BESIDE, AT_ONCE):
        held = statistics.median(turn.held for turn in turns[name]) / step[NONE]
        cost = statistics.median(turn.work for turn in turns[name]) / cpu_step
        most = held if DEVICE.type == "cuda" else max(held, cost)  # a GPU's steps take little of the CPU's time
        shares = ", ".join(f"{100 * most / every:.2g} %" for every in EVERY)
        lines.append(f"| {name} | {held:.3f} steps | {cost:.3f} steps | {shares} of the time | {step[name]:.1f} s |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels of the images' sides")
    parser.add_argument("--steps", type=int, default=3, help="trained in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    work = Workload(size=arguments.size)
    lines = page(work, arguments.steps, *measure(work, arguments.steps, arguments.rounds))
    print("\n".join(lines))
    write_between_markers(PAGE, lines)


if __name__ == "__main__":
    main()
