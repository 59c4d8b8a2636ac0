"""The cases of bench_step.py: one training step, ours beside the reference's and torch.compile's, and rung by rung."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import DEVICE, Case
from cyclegan_fast import ops
from cyclegan_fast.checkpoint.reference_format import to_reference
from cyclegan_fast.config import ModelConfig, ObjectiveConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.graphed_step import WARM_UP_STEPS, GraphedStep
from cyclegan_fast.training.joint_gradients import JointGradients
from cyclegan_fast.training.process import keep_freed_memory
from cyclegan_fast.training.step import CycleGANStep
from tests.plain.networks import PlainNLayerDiscriminator, PlainResnetGenerator
from tests.plain.step import PlainCycleGAN

NAMES = ("G_A", "G_B", "D_A", "D_B")
REFERENCE = "reference: eager fp32 NCHW"
OURS_ON_CUDA = "ours: bf16, CUDA graph"
NARROW_ON_CUDA = f"{OURS_ON_CUDA}, narrow convolutions"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is trained; by default the case of record: batch 1, 256 px, 9 blocks, 64 channels."""

    size: int = 256
    batch: int = 1
    blocks: int = 9
    channels: int = 64
    identity: bool = True

    def __str__(self) -> str:
        identity = "" if self.identity else ", no identity loss"
        return f"Batch {self.batch}, {self.size} px, {self.blocks} blocks, {self.channels} channels{identity}"

    def config(self, **run: Any) -> TrainConfig:
        objective = ObjectiveConfig() if self.identity else ObjectiveConfig(lambda_identity=0.0)
        return TrainConfig(model=self.model, objective=objective, run=RunConfig(**run))

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(generator=f"resnet_{self.blocks}blocks", ngf=self.channels, ndf=self.channels)

    def batches(self, device: torch.device, channels_last: bool) -> Any:
        """Endless batches of fresh random images, eight of them taking turns."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        shape = (self.batch, 3, self.size, self.size)
        images = [(torch.rand(shape, device=device) * 2 - 1).to(memory_format=layout) for _ in range(16)]
        return itertools.cycle(zip(images[::2], images[1::2], strict=True))


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


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What is switched on in our step, and what it was predicted to take."""

    name: str
    predicted: str  # ms on an H200 in the case of record
    graph: bool = False
    fused: bool = True  # our operators, or the same maths in plain torch
    pairs: bool = True
    side_by_side: bool = True
    joint: bool = False


LADDER = (
    Rung(name="ours, plain operators", predicted="22 to 30", fused=False, pairs=False, side_by_side=False),
    Rung(name="+ one CUDA graph", predicted="10 to 12", graph=True, fused=False, pairs=False, side_by_side=False),
    Rung(name="+ fused operators", predicted="8", graph=True, pairs=False, side_by_side=False),
    Rung(name="+ pairing", predicted="6.5", graph=True, side_by_side=False),
    Rung(name="+ both directions side by side", predicted="5.8", graph=True),
    Rung(name="+ one weight gradient for both passes", predicted="5.4", graph=True, joint=True),
)


@dataclass
class Prepared:
    """A case that has run a few steps."""

    run: Case  # one step
    peak_gib: float | None  # CUDA memory reserved for a step, that of the cases set up before included


def build_cases(work: Workload, device: torch.device) -> dict[str, Callable[[], Prepared]]:
    """Name -> a function that sets the case up: ours beside its peers."""
    networks = build_networks(work.model)
    cuda = device.type == "cuda"

    def reference(amp: bool) -> Prepared:
        plain = plain_networks(networks, work, device)
        if amp:
            for net in plain.values():
                net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        weight = 10.0, 10.0, 0.5 if work.identity else 0.0
        trainer = PlainCycleGAN(*(plain[name] for name in NAMES), weight=weight)
        batches = work.batches(device, channels_last=amp)
        context = torch.autocast(device.type, torch.bfloat16) if amp else contextlib.nullcontext()

        def one() -> None:
            with context:
                trainer.step(*next(batches))

        return prepared(one, device)

    def compiled(amp: str) -> Prepared:
        """The honest peer: plain modules through torch.compile, one graph where there is CUDA."""
        plain = nn.ModuleDict(plain_networks(networks, work, device)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        compile_each(plain, mode="max-autotune-no-cudagraphs" if cuda else "default")
        step = CycleGANStep(plain, work.config(amp=amp, side_by_side="off"))
        step.pairs = False
        return on_batches(step, work, device, graph=cuda, fused=False)

    # A CPU without bfloat16 lets torch convert at every call: such a peer would make us look good.
    peers_in_bf16 = cuda or not ops.bfloat16_is_slow(device, channels_last=False)  # as torch runs it
    graph = ", CUDA graph" if cuda else ""
    cases = {REFERENCE: lambda: reference(amp=False)}
    if peers_in_bf16:
        cases["reference: eager bf16 channels_last"] = lambda: reference(amp=True)
    cases |= {
        "ours: eager fp32": lambda: ours(networks, work, device, LADDER[-1], "off", graph=False),
        "ours: eager bf16": lambda: ours(networks, work, device, LADDER[-1], "bf16", graph=False),
        f"ours: --compile bf16{graph}": lambda: ours(networks, work, device, LADDER[-1], "bf16", compiled=True),
    }
    if cuda:
        cases[OURS_ON_CUDA] = lambda: ours(networks, work, device, LADDER[-1], "bf16")
        cases[NARROW_ON_CUDA] = lambda: ours(networks, work, device, LADDER[-1], "bf16", narrow=True)
    else:
        cases["compiled peer: torch.compile fp32"] = lambda: compiled("off")
    if peers_in_bf16:
        cases[f"compiled peer: torch.compile bf16{graph}"] = lambda: compiled("bf16")
    return cases


def build_ladder(work: Workload, device: torch.device) -> dict[str, Callable[[], Prepared]]:
    """Name -> a function that sets our step up to that rung: bf16 on a GPU; float32 on a CPU, which has fewer rungs."""
    networks = build_networks(work.model)
    cuda = device.type == "cuda"
    rungs = [rung for rung in LADDER if cuda or rung not in (LADDER[1], LADDER[-1])]
    amp = "bf16" if cuda else "off"
    return {rung.name: functools.partial(ours, networks, work, device, rung, amp) for rung in rungs}


def ours(
    networks: nn.ModuleDict,
    work: Workload,
    device: torch.device,
    rung: Rung,
    amp: str,
    *,
    graph: bool | None = None,
    compiled: bool = False,
    narrow: bool = False,
) -> Prepared:
    """Our step with all that the rung switches on, in a graph or not where `graph` is given."""
    nets = copy.deepcopy(networks).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compiled:
        compile_each(nets)
    side_by_side = "auto" if rung.side_by_side else "off"
    step = CycleGANStep(nets, work.config(amp=amp, side_by_side=side_by_side, compile=compiled))
    step.pairs = rung.pairs
    if not rung.joint:
        step.joint = JointGradients([])
    captured = device.type == "cuda" and (rung.graph if graph is None else graph)
    return on_batches(step, work, device, graph=captured, fused=rung.fused, narrow=narrow)


def compile_each(networks: nn.ModuleDict, **options: Any) -> None:
    """Compiles each for its own shapes, all of them: past a limit of eight torch would go on eagerly."""
    torch._dynamo.config.recompile_limit = 64
    for net in networks.values():
        net.compile(dynamic=False, **options)


def on_batches(
    step: CycleGANStep, work: Workload, device: torch.device, *, graph: bool, fused: bool, narrow: bool = False
) -> Prepared:
    batches = work.batches(device, channels_last=True)
    run: Callable[[Tensor, Tensor], object] = GraphedStep(step) if graph else step

    def one() -> None:
        with contextlib.nullcontext() if fused else ops.use_reference(), ops.narrow_convolutions(narrow):
            run(*next(batches))

    return prepared(one, device)


def prepared(one: Case, device: torch.device) -> Prepared:
    """Warms the case up. Its memory is that of one step more: of the one, then, that a graph captures."""
    torch.backends.cudnn.benchmark = True  # for every case alike, as is the next line
    if device.type == "cpu":
        keep_freed_memory()
    for _ in range(WARM_UP_STEPS):
        one()
    if device.type != "cuda":
        return Prepared(one, None)
    torch.cuda.reset_peak_memory_stats()
    one()
    return Prepared(one, torch.cuda.max_memory_reserved() / 2**30)


# A laptop's work on the CPU, the case of record on a GPU.
WORK = Workload() if DEVICE.type == "cuda" else Workload(size=64, blocks=3, channels=16)
