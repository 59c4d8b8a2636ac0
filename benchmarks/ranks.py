"""What the reductions of several ranks cost: steps and images per second, and the time that a step spends on them.

    python -m benchmarks.ranks
    torchrun --nproc-per-node 2 -m benchmarks.ranks --blocks 9 --width 64 --size 256

Trains on random images, each rank on its own, and prints a row of a table. The time of a reduction is what the step
stands still for it: copies into the buckets, and the wait; on a GPU, whose host does not wait, only the steps count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from cyclegan_fast.config import ModelConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.graphed_step import WARM_UP_STEPS, GraphedStep
from cyclegan_fast.training.meeting import find_place
from cyclegan_fast.training.ranks import Ranks
from cyclegan_fast.training.reduction import GradientReduction
from cyclegan_fast.training.step import CycleGANStep


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
    if ranks.is_first:
        print("| ranks | batch of each | steps/s | images/s of each domain | s of a step | of them for reductions |")
        print("|---|---|---|---|---|---|")
        print(row)


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


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
