"""What a training step and an engine launch on a GPU, counted without one, by kind.

python -m benchmarks.launches --out docs/results/launches.md
python -m benchmarks.launches --json
python -m benchmarks.launches --out docs/results/launches.md --rung "Adam of our own"

The real step runs on fake tensors of a CUDA device (tests/fake_cuda): every operator that it issues is seen with its
shapes, types, layouts and devices, and an operator that needs a value on the host is an error. Operators stand for
kernels as `kinds` says; where torch chooses at run time (a convolution's own layout changes, the chunks that it cuts a
multi-tensor operator into) one is counted. A real trace of a step is in docs/results/<device>-kernels.md.
"""

from __future__ import annotations

import tests.fake_cuda  # noqa: F401  # isort: skip  before torch, which asks for CUDA once

import argparse
import contextlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.results import write_page
from benchmarks.time_model import JOINT, Launch, launches_of, one_after_the_other, side_by_side
from cyclegan_fast import ops
from cyclegan_fast.config import ModelConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.ops.adam import MAX_WEIGHTS
from cyclegan_fast.training import step as training_step
from cyclegan_fast.training.concurrency import sequential
from tests.fake_cuda import device

SIZE = 256  # the case of record: batch 1, 256 px, 9 blocks, 64 channels
SETTINGS: dict[str, dict[str, Any]] = {
    "step, fp32": {"amp": "off"},
    "step, bf16": {"amp": "bf16"},
    "step, fp16": {"amp": "fp16"},
}
ENGINES = {"engine, fp32": torch.float32, "engine, bf16": torch.bfloat16, "engine, fp16": torch.float16}
RESIDENT_PIXELS = {"fwd": 128 * 128, "bwd": 64 * 128}  # a larger plane is normalised by two kernels: sums, the result

FREE = {  # views, allocations and bookkeeping
    *("view", "slice", "detach", "split", "unbind", "squeeze", "unsqueeze", "expand", "permute", "transpose"),
    *("as_strided", "alias", "select", "t", "_unsafe_view", "narrow", "split_with_sizes", "lift_fresh"),
    *("_reshape_alias", "unflatten", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"),
    *("device", "_record_function_enter_new", "_record_function_exit", "chunk", "is_same_size"),
}


@dataclass
class Found:
    """What one call issued."""

    launches: Counter[str] = field(default_factory=Counter)
    """By kind."""
    timed: dict[str, list[Launch]] = field(default_factory=lambda: defaultdict(list))
    """Each launch as the model of time sees it, by what issues it: the cycles "A" and "B", "joint A" and "joint B" for
    the weight gradients that both passes of a generator share, or "" for what joins the streams."""
    devices: set[str] = field(default_factory=set)
    """Of all tensors."""
    layout_changes: list[str] = field(default_factory=list)
    """Copies of images or weights from one layout to another."""


def kinds(name: str, inputs: list[Tensor], outputs: list[Tensor], arguments: tuple[Any, ...]) -> dict[str, int]:
    """The kernels that an operator stands for: kind -> how many."""
    if name in FREE:
        return {}
    if name == "convolution":
        return {"convolution": 1, "bias": int(arguments[2] is not None)}
    if name == "convolution_backward":
        mask = arguments[10]
        return {"convolution": int(mask[0]) + int(mask[1]), "bias": int(mask[2])}
    if name.startswith("conv2d"):  # the narrow convolutions; a weight gradient is merged by a second kernel
        return {"convolution": 2 if name == "conv2d_weight_grad" else 1}
    if name.startswith("instance_norm_act"):
        x, direction = (arguments[0], "fwd") if "_fwd" in name else (arguments[2], "bwd")  # [N, C, H, W]
        return {"norm": 1 if x.shape[2] * x.shape[3] <= RESIDENT_PIXELS[direction] else 2}
    if name == "image_pool_exchange":
        return {"image pool": 2}
    if name in ("losses_fwd", "losses_bwd"):  # a term that is more than one block's: its sums are added up apart
        block = 256 * 4 * (16 // inputs[0].element_size())  # elements
        return {"losses": 2 if name == "losses_fwd" and any(x.numel() > block for x in arguments[1]) else 1}
    if name.startswith("reflect_pad"):
        return {"reflect pad": 1}
    if name.startswith("bias_act"):  # the sum of the bias's gradient over all blocks is in the same launch
        return {"bias": 1}
    if name == "_to_copy":
        return {"cast": 1}
    if name == "slice_backward":  # zeros, and the copy
        return {"other": 2}
    if name in ("add", "add_"):
        return {"add": 1}
    if name == "adam_step":
        return {"optimizer": 1 + 2 * math.ceil(len(arguments[0]) / MAX_WEIGHTS)}
    if name.startswith(("_foreach", "_fused_sgd")):
        return {"optimizer": 1}
    return {"other": 1}


class Watch(TorchDispatchMode):
    """Records what is issued while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Found()
        self.cycle = ""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs, outputs = ([t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in ((args, kwargs), result))
        name = function.__name__.split(".")[0]
        if name.endswith("_into"):  # a result in the caller's memory
            outputs.append(inputs.pop())
        number = {kind: n for kind, n in kinds(name, inputs, outputs, args).items() if n}
        self.found.launches.update(number)
        self.found.timed[self.cycle] += launches_of(name, number, inputs, outputs, args)
        self.found.devices |= {str(t.device) for t in inputs + outputs}
        if name in ("_to_copy", "clone", "copy_", "contiguous") and _changes_layout(inputs[-1], outputs[0]):
            self.found.layout_changes.append(f"{name} of {list(inputs[-1].shape)}")
        return result


def watch_step(run: dict[str, Any], *, ema: float = 0.0, **model: Any) -> Found:
    """What a training step issues after the first one, which makes the image pools."""
    config = TrainConfig(model=ModelConfig(**model), optim=OptimConfig(ema=ema), run=RunConfig(**run))
    in_order = mock.patch.object(training_step, "choose_concurrency", lambda *arguments: lambda images: sequential)
    with device.mode():
        networks = device.networks(lambda: build_networks(config.model))
        with in_order:  # a fake device has no streams
            step = training_step.CycleGANStep(networks, config)
        batch = [_images(config.model.channels_A) for _ in "AB"]
        step(*batch)
        with Watch() as watch, _named(step, watch):
            step(*batch)
    return watch.found


def watch_narrow_step() -> Found:
    """What the bf16 step issues with CYCLEGAN_FAST_NARROW_CONV=on."""
    with ops.narrow_convolutions(True):
        return watch_step(SETTINGS["step, bf16"])


@contextlib.contextmanager
def _named(step: training_step.CycleGANStep, watch: Watch) -> Iterator[None]:
    """Tells `watch` which of the two streams runs: a cycle's, and later that of a generator's weight gradients."""

    def named(function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            watch.cycle = name(*arguments)
            try:
                return function(*arguments, **options)
            finally:
                watch.cycle = ""

        return run

    with contextlib.ExitStack() as stack:
        patch = mock.patch.object
        stack.enter_context(patch(step, "run_cycle", named(step.run_cycle, lambda cycle, *others: cycle.source)))
        for source, passes in zip("AB", step.joint.passes.values(), strict=False):
            gradients = named(passes.weight_gradients, lambda *weights, source=source: f"joint {source}")
            stack.enter_context(patch(passes, "weight_gradients", gradients))
        yield


def watch_engine(dtype: torch.dtype) -> Found:
    """What a generator issues for one image, as the torch backend runs it."""
    with device.mode():
        generator = device.networks(lambda: build_networks(ModelConfig()))["G_A"].eval().requires_grad_(False)
        for module in generator.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = torch.nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        image = _images(3).to(dtype)
        with torch.no_grad(), Watch() as watch:
            generator(image).float()
    return watch.found


def count() -> dict[str, Found]:
    """Everything, by name."""
    cases: dict[str, Callable[[], Found]] = {name: lambda run=run: watch_step(run) for name, run in SETTINGS.items()}
    cases["step, bf16, narrow convolutions"] = watch_narrow_step
    cases["step, bf16, averaged generators"] = lambda: watch_step(SETTINGS["step, bf16"], ema=0.999)
    cases |= {name: lambda dtype=dtype: watch_engine(dtype) for name, dtype in ENGINES.items()}
    return {name: case() for name, case in cases.items()}


def predict(found: Found) -> tuple[float, float]:
    """Milliseconds on an H200 by the model of time: the cycles one after the other, and side by side."""
    join = one_after_the_other(found.timed[""]) / 1e3
    in_order, beside = _of_both([found.timed[cycle] + found.timed[f"joint {cycle}"] for cycle in "AB"])
    return in_order + join, beside + join


def predict_joint(found: Found) -> tuple[float, float]:
    """Milliseconds of these for the weight gradients that both passes of a generator share."""
    return _of_both([found.timed[f"joint {cycle}"] for cycle in "AB"])


def _of_both(streams: list[list[Launch]]) -> tuple[float, float]:
    return sum(map(one_after_the_other, streams)) / 1e3, side_by_side(*streams) / 1e3


def page(found: dict[str, Found], rungs: list[str]) -> list[str]:
    every = sorted({kind for one in found.values() for kind in one.launches})
    return [
        "# Launches, counted without a GPU",
        "",
        f"Written by `python -m benchmarks.launches`: batch 1, {SIZE} px, 9 blocks, 64 channels, channels_last. An",
        "engine translates one image. A kernel stands for each operator, several for some (the head of that program",
        "says which). The tests hold that no number grows.",
        "",
        "| | " + " | ".join([*every, "together"]) + " |",
        "|---" * (len(every) + 2) + "|",
        *(_row(name, [*(one.launches[kind] for kind in every), one.launches.total()]) for name, one in found.items()),
        "",
        "## A prediction",
        "",
        "Milliseconds on an H200 inside a CUDA graph by the rough model of `benchmarks/time_model.py`. Nothing here",
        "was measured: the first measurement says where the model is wrong.",
        "",
        "| | one cycle after the other | side by side |",
        "|---|---|---|",
        *(_row(name, [f"{ms:.2f}" for ms in predict(one)]) for name, one in found.items()),
        _row(JOINT, [f"{ms:.2f}" for ms in predict_joint(found["step, bf16"])]),
        "",
        "The bf16 step as it became smaller, each row written by `--rung` at the time:",
        "",
        *RUNGS,
        *rungs,
    ]


RUNGS = ["| rung | launches | convolutions | one cycle after the other | side by side |", "|---|---|---|---|---|"]


def rungs_of(path: Path | None, found: Found, rung: str | None) -> list[str]:
    """The rows of the page's last table as `path` has them, and one more named `rung`."""
    lines = path.read_text("utf-8").splitlines() if path and path.exists() else []
    earlier = lines[lines.index(RUNGS[0]) + 2 :] if RUNGS[0] in lines else []
    if rung is None:
        return earlier
    launches = found.launches.total(), found.launches["convolution"]
    return [*earlier, _row(rung, [*launches, *(f"{ms:.2f}" for ms in predict(found))])]


def _row(name: str, cells: Sequence[object]) -> str:
    return f"| {name} | " + " | ".join(map(str, cells)) + " |"


def _images(channels: int) -> Tensor:
    return torch.empty(1, channels, SIZE, SIZE, device="cuda").to(memory_format=torch.channels_last)


def _changes_layout(before: Tensor, after: Tensor) -> bool:
    """Whether a copy of [N, C, H, W] has the other layout; where both have one pixel or channel there is none."""
    if before.dim() != 4 or before.shape != after.shape:
        return False
    return any(
        before.is_contiguous(memory_format=a)
        and not before.is_contiguous(memory_format=b)
        and not after.is_contiguous(memory_format=a)
        for a, b in (
            (torch.contiguous_format, torch.channels_last),
            (torch.channels_last, torch.contiguous_format),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the page")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--rung", help="name of a row that is added to the page's table of bf16 steps")
    arguments = parser.parse_args()
    found = count()
    if arguments.json:
        counted = {
            name: {"launches": one.launches, "devices": sorted(one.devices), "layout_changes": one.layout_changes}
            for name, one in found.items()
        }
        print(json.dumps(counted))
        return
    lines = page(found, rungs_of(arguments.out, found["step, bf16"], arguments.rung))
    print("\n".join(lines))
    if arguments.out:
        write_page(arguments.out, lines)


if __name__ == "__main__":
    main()
