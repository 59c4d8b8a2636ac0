"""`train --estimate --device cuda` where there is no GPU: what a step would take, by counting, not by measuring.

The step itself runs on tensors without values, of torch's device "meta": every operator that it issues is seen with its
shapes, and what lives at the same time is added up. Memory is a count. Time is a rough model of one GPU, an H200:
a convolution by its arithmetic, all else by the bytes that it moves, each with a gap before it.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from cyclegan_fast.config import TrainConfig, with_settings
from cyclegan_fast.data import build_train_loader
from cyclegan_fast.data.transforms import check_geometry
from cyclegan_fast.errors import UserError
from cyclegan_fast.logs import suppressed_output
from cyclegan_fast.monitoring.progress import duration, progress_hidden
from cyclegan_fast.nn import build_networks, image_requirements
from cyclegan_fast.training.example_data import with_example_data
from cyclegan_fast.training.models import build_step
from cyclegan_fast.training.position import Position
from cyclegan_fast.training.settings import resolve_settings

# An H200. The arithmetic and the copies were measured elsewhere; the share of it that a convolution reaches and the gap
# between two kernels of a CUDA graph are guesses.
GPU = "an H200"
FLOPS = {"off": 395e12, "bf16": 790e12, "fp16": 790e12}  # a second, of dense products; float32 as TF32
SHARE_OF_FLOPS = 0.4
BYTES_PER_SECOND = 4.0e12  # read and written, from and to the memory
SECONDS_PER_KERNEL = 2e-6


@dataclass(frozen=True)
class Prediction:
    """What a step on a GPU would take."""

    size: tuple[int, int, int]
    """Images of a step, and the sides in pixels of each."""
    flops: float
    """Of the convolutions; a product and a sum are two."""
    bytes_moved: float
    """By all operators together."""
    kernels: int
    """Operators that compute."""
    state_bytes: float
    """Weights, Adam's moments, image pools."""
    peak_bytes: float
    """What a step holds beside the state, at its peak."""
    seconds_per_step: float
    steps: int
    """Of the whole run."""


def is_all_there_is(device: str) -> bool:
    """Whether a run on `device`, a name as --device takes it, cannot be measured, as torch finds no GPU at all."""
    return device.startswith("cuda") and not torch.cuda.is_available()


def predict(config: TrainConfig) -> Prediction:
    """Counts a step of a run, and the steps.

    Raises:
        UserError: The settings, or the images, cannot be trained with.
    """
    with tempfile.TemporaryDirectory() as out, suppressed_output("cyclegan_fast"), progress_hidden():
        config = with_settings(config, {"out": Path(out), "side_by_side": "off", "loader": "torch", "workers": 0})
        checked = resolve_settings(config, torch.device("cuda"))
        if not checked.data.has_one_size:
            raise UserError(
                f"--estimate without a GPU predicts for images of one size, and --preprocess {checked.data.preprocess} "
                "gives several; leave out one of both, or estimate on the machine that will train"
            )
        divisor, minimum = image_requirements(config.model)
        check_geometry(config.data, divisor, minimum)
        with_images = with_example_data(checked)
        loader = build_train_loader(with_images, "cpu", size_divisor=divisor, min_size=minimum)
        loader.close()
    return count_step(checked, Position(config, loader.epoch_size).total_steps)


def count_step(config: TrainConfig, steps: int) -> Prediction:
    """Runs a step on tensors without values and adds up what it does.

    Autocast knows no such tensors: in 16 bits, images and activations are counted as half of what they are in 32. Nor
    does the update of averaged generators, which is two of some 490 operators: only their memory is counted.
    """
    width = 4 if config.run.amp == "off" else 2  # bytes of an activation
    exact = with_settings(config, {"amp": "off", "compile": False, "ema": 0.0})
    model, side = exact.model, exact.data.crop_size
    with torch.device("meta"):
        networks = build_networks(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = [
            torch.empty(exact.optim.images_per_step, channels, side, side).to(memory_format=torch.channels_last)
            for channels in (model.channels_A, model.channels_B)
        ]
    step = build_step(networks, exact)
    for name in step.model.generators:
        networks[name].checkpoints_activations = exact.run.activation_checkpointing  # type: ignore[assignment]
    step(*batch)  # makes the image pools
    with _Count(width, FLOPS[config.run.amp]) as count:
        step(*batch)
    weights = sum(_bytes(weight) for weight in networks.parameters())
    averaged = sum(_bytes(weight) for name in step.model.generators for weight in networks[name].parameters())
    pools = sum(_bytes(pool.images) for pool in step.pools.values() if isinstance(pool.images, Tensor))
    working = weights / 2 if config.run.amp != "off" else 0
    return Prediction(
        size=(exact.optim.images_per_step, side, side),
        flops=count.flops,
        bytes_moved=count.moved,
        kernels=count.kernels,
        state_bytes=3 * weights + pools + working + (averaged if config.optim.ema else 0),
        peak_bytes=count.peak,
        seconds_per_step=count.seconds,
        steps=steps,
    )


class _Count(TorchDispatchMode):
    """Adds up what is issued while it is entered.

    Args:
        width: Bytes of an element of an activation.
        flops_per_second: Of the GPU.
    """

    def __init__(self, width: int, flops_per_second: float) -> None:
        super().__init__()
        self.width, self.flops_per_second = width, flops_per_second
        self.flops = self.moved = self.seconds = self.live = self.peak = 0.0
        self.kernels = 0
        self.storages: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs, outputs = ([t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in ((args, kwargs), result))
        read = {t.untyped_storage()._cdata for t in inputs}
        made = [t for t in outputs if t.untyped_storage()._cdata not in read]
        for tensor in made:
            self._hold(tensor)
        if (made or function._schema.is_mutable) and not function.__name__.startswith(("empty", "new_empty")):
            count = flop_registry.get(function.overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=result) if count else 0
            self._compute(flops, sum(self._size(tensor) for tensor in inputs + outputs))
        return result

    def _compute(self, flops: float, moved: float) -> None:
        self.kernels += 1
        self.moved += moved
        self.flops += flops
        arithmetic = flops / (self.flops_per_second * SHARE_OF_FLOPS)
        self.seconds += SECONDS_PER_KERNEL + max(arithmetic, moved / BYTES_PER_SECOND)

    def _hold(self, tensor: Tensor) -> None:
        """Counts the memory of a new tensor until nothing refers to it."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, self._size(tensor)
        if key not in self.storages:
            self.storages.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: float) -> None:
        self.storages.discard(key)
        self.live -= size

    def _size(self, tensor: Tensor) -> float:
        """Bytes: images and activations [N, C, H, W] and weights as the GPU's operators read them."""
        return tensor.numel() * (self.width if tensor.dim() == 4 else tensor.element_size())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def as_text(found: Prediction) -> Iterator[str]:
    """Yields the prediction line by line."""
    images, height, width = found.size
    seconds = duration(found.steps * found.seconds_per_step)
    yield (
        f"time: {found.flops / 1e12:.2f} TFLOP and {found.bytes_moved / 1e9:.1f} GB of memory traffic in a step of "
        f"{images} + {images} images of {width}x{height} pixels; by a rough model {GPU} takes "
        f"{1e3 * found.seconds_per_step:.1f} ms, and {seconds} for {found.steps:,} steps"
    )
    yield (
        f"GPU memory: {found.state_bytes / 2**30:.2f} GiB of weights, moments and image pools and "
        f"{found.peak_bytes / 2**30:.2f} GiB in a step, or up to twice that with --side-by-side, as small batches "
        "have it; CUDA, cuDNN's workspaces and cached images come on top"
    )
