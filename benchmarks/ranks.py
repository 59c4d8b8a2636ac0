"""What several ranks cost each other: steps and images per second, the time of reductions, and that of an agreement.

    python -m benchmarks.ranks
    torchrun --nproc-per-node 2 -m benchmarks.ranks --blocks 9 --width 64 --size 256

Trains on random images, each rank on its own, and prints a row of a table. The time of a reduction is what the step
stands still for it: copies into the buckets, and the wait; on a GPU, whose host does not wait, only the steps count.
An agreement, of which each step has one, takes turns with Gloo's all-reduce of the same three numbers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from cyclegan_fast.config import ModelConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.graphed_step import WARM_UP_STEPS, GraphedStep
from cyclegan_fast.training.meeting import find_place
from cyclegan_fast.training.ranks import Ranks
from cyclegan_fast.training.reduction import GradientReduction
from cyclegan_fast.training.step import CycleGANStep

TURNS, CALLS = 15, 50  # of an agreement


class TimedReduction(GradientReduction):
    """Counts the seconds that the caller stands still."""

    spent = 0.0

    def _timed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        found = function(*arguments)
        self.spent += time.perf_counter() - start
        return found

    def begin(self, *arguments: Any) -> Any:
        return self._timed(super().begin, *arguments)

    def wait(self) -> None:
        self._timed(super().wait)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("blocks", 3), ("width", 16), ("size", 64), ("batch", 1), ("steps", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--amp", choices=("off", "bf16", "fp16"), default="off")
    options = parser.parse_args()
    place = find_place()
    device = torch.device(place.device("cuda" if torch.cuda.is_available() else "cpu"))
    with Ranks(place, device, 600.0) as ranks:
        row = measure(ranks, device, options)
        agreed = measure_agreement(ranks) if ranks.world > 1 else ""
    if ranks.is_first:
        print("| ranks | batch of each | steps/s | images/s of each domain | s of a step | of them for reductions |")
        print("|---|---|---|---|---|---|")
        print(row)
        if agreed:
            print(agreed)


def measure(ranks: Ranks, device: torch.device, options: argparse.Namespace) -> str:
    """Returns the row of this number of ranks."""
    config = TrainConfig(
        model=ModelConfig(generator=f"resnet_{options.blocks}blocks", ngf=options.width, ndf=options.width),
        optim=OptimConfig(batch_size=options.batch),
        run=RunConfig(amp=options.amp),
    )
    torch.manual_seed(0)
    networks = build_networks(config.model).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = CycleGANStep(networks, config)
    reduction = TimedReduction(ranks.connected) if ranks.world > 1 else None
    step.reduction = reduction
    run_step = GraphedStep(step) if device.type == "cuda" else step
    images = torch.rand(2, options.batch, 3, options.size, options.size, device=device) * 2 - 1
    for _ in range(WARM_UP_STEPS + 1):
        run_step(*images)
    if reduction is not None:
        reduction.spent = 0.0
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(options.steps):
        run_step(*images)
    _synchronize(device)
    seconds = ranks.highest((time.perf_counter() - start) / options.steps)[0]
    share = "none" if reduction is None else "in the graph"
    if reduction is not None and device.type == "cpu":
        share = f"{reduction.spent / options.steps:.3f}"
    rate = ranks.world * options.batch / seconds
    return f"| {ranks.world} | {options.batch} | {1 / seconds:.2f} | {rate:.2f} | {seconds:.3f} | {share} |"


def measure_agreement(ranks: Ranks) -> str:
    """Returns how long an agreement takes, and Gloo's all-reduce, as medians of turns."""

    def ring() -> None:
        dist.all_reduce(torch.zeros(3, dtype=torch.float64), dist.ReduceOp.MAX, group=ranks.group)

    variants: dict[str, Callable[[], object]] = {"agreement": lambda: ranks.highest(0.0, 0.0, 0.0), "all-reduce": ring}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(TURNS):
        for name, run in variants.items():
            ranks.highest()  # all begin at once
            start = time.perf_counter()
            for _ in range(CALLS):
                run()
            seconds[name].append((time.perf_counter() - start) / CALLS)
    return ", ".join(f"{name} of the hosts: {1e3 * statistics.median(found):.2f} ms" for name, found in seconds.items())


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
