"""One training step: ours beside the reference's way of doing it and beside torch.compile.

pytest benchmarks/bench_step.py --benchmark-only      each case alone
python -m benchmarks.bench_step --size 256 --batch 1  all of them taking turns, with ratios
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.harness import Case, interleave, table
from cyclegan_fast import ops
from cyclegan_fast.checkpoint.reference_format import to_reference
from cyclegan_fast.config import ModelConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.graphed_step import WARM_UP_STEPS, GraphedStep
from cyclegan_fast.training.step import CycleGANStep
from tests.plain.networks import PlainNLayerDiscriminator, PlainResnetGenerator
from tests.plain.step import PlainCycleGAN

NAMES = ("G_A", "G_B", "D_A", "D_B")
REFERENCE = "reference: eager fp32 NCHW"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is trained: the case of record is batch 1, 256 px, 9 blocks, 64 channels."""

    size: int = 256
    batch: int = 1
    blocks: int = 9
    channels: int = 64

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(generator=f"resnet_{self.blocks}blocks", ngf=self.channels, ndf=self.channels)

    def batches(self, device: torch.device, channels_last: bool) -> Any:
        """Endless batches of fresh random images, eight of them taking turns."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        shape = (self.batch, 3, self.size, self.size)
        made = [(torch.rand(shape, device=device) * 2 - 1).to(memory_format=layout) for _ in range(16)]
        return itertools.cycle(zip(made[::2], made[1::2], strict=True))


def plain_networks(networks: nn.ModuleDict, work: Workload, device: torch.device) -> dict[str, nn.Module]:
    """The same weights in plain torch modules."""
    plain: dict[str, nn.Module] = {}
    for name in NAMES:
        if name.startswith("G"):
            net: nn.Module = PlainResnetGenerator(3, 3, ngf=work.channels, n_blocks=work.blocks)
        else:
            net = PlainNLayerDiscriminator(3, ndf=work.channels, n_layers=3)
        net.load_state_dict(to_reference(networks[name]))
        plain[name] = net.to(device)
    return plain


def build_cases(work: Workload, device: torch.device) -> dict[str, Callable[[], Case]]:
    """Name -> a function that sets the case up and returns what one step of it is."""
    networks = build_networks(work.model)
    torch.backends.cudnn.benchmark = True  # for every case alike

    def reference(amp: bool) -> Case:
        plain = plain_networks(networks, work, device)
        if amp:
            for net in plain.values():
                net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainer = PlainCycleGAN(*(plain[name] for name in NAMES))
        batches = work.batches(device, channels_last=amp)
        context = torch.autocast(device.type, torch.bfloat16) if amp else contextlib.nullcontext()

        def one() -> None:
            with context:
                trainer.step(*next(batches))

        return one

    def compiled() -> Case:
        """The honest peer: plain modules through torch.compile, mixed precision, one graph where there is CUDA."""
        plain = nn.ModuleDict(plain_networks(networks, work, device)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for net in plain.values():
            net.compile(mode="max-autotune-no-cudagraphs" if device.type == "cuda" else "default")
        step = CycleGANStep(plain, TrainConfig(model=work.model, run=RunConfig(amp="bf16")))
        step.pairs = False
        return on_batches(step, reference_ops=True)

    def ours(amp: bool, graph: bool = False) -> Case:
        nets = copy.deepcopy(networks).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        step = CycleGANStep(nets, TrainConfig(model=work.model, run=RunConfig(amp="bf16" if amp else "off")))
        return on_batches(step, graph=graph)

    def on_batches(step: CycleGANStep, *, graph: bool | None = None, reference_ops: bool = False) -> Case:
        batches = work.batches(device, channels_last=True)
        use_graph = device.type == "cuda" if graph is None else graph
        run: Callable[[Tensor, Tensor], object] = GraphedStep(step) if use_graph else step

        def one() -> None:
            with ops.use_reference() if reference_ops else contextlib.nullcontext():
                run(*next(batches))

        for _ in range(WARM_UP_STEPS + 1):
            one()
        return one

    cases = {
        REFERENCE: lambda: reference(amp=False),
        "reference: eager bf16 channels_last": lambda: reference(amp=True),
        "ours: eager fp32": lambda: ours(amp=False),
        "ours: eager bf16": lambda: ours(amp=True),
    }
    if device.type == "cuda":
        cases["ours: bf16, CUDA graph"] = lambda: ours(amp=True, graph=True)
    cases["compiled peer: torch.compile bf16" + (", CUDA graph" if device.type == "cuda" else "")] = compiled
    return cases


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# A laptop's work on the CPU, the case of record on a GPU.
WORK = Workload() if DEVICE.type == "cuda" else Workload(size=64, blocks=3, channels=16)


@pytest.mark.parametrize("name", build_cases(Workload(size=32, blocks=1, channels=1), DEVICE))
def test_step(benchmark: Any, name: str) -> None:
    one = build_cases(WORK, DEVICE)[name]()

    def run() -> None:
        one()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.extra_info |= {"size": WORK.size, "batch": WORK.batch, "blocks": WORK.blocks, "device": DEVICE.type}
    benchmark.pedantic(run, rounds=10, warmup_rounds=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=WORK.size, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=1, help="images of each domain per step")
    parser.add_argument("--blocks", type=int, default=WORK.blocks, help="residual blocks of the generators")
    parser.add_argument("--channels", type=int, default=WORK.channels, help="ngf and ndf")
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each case")
    parser.add_argument("--without", nargs="*", default=[], help="leave out cases whose name contains one of these")
    arguments = parser.parse_args()
    work = Workload(size=arguments.size, batch=arguments.batch, blocks=arguments.blocks, channels=arguments.channels)
    builders = build_cases(work, DEVICE)
    wanted = [name for name in builders if not any(word in name for word in arguments.without)]
    if not wanted:
        parser.error("--without leaves no case")
    cases = {name: builders[name]() for name in wanted}
    print(table(interleave(cases, rounds=arguments.rounds, device=DEVICE), baseline=wanted[0]))


if __name__ == "__main__":
    main()
