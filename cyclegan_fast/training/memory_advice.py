"""Which flags make a training need less memory, by its settings: the most first, and none that is on already."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.training.concurrency import why_not_side_by_side


def memory_advice(config: TrainConfig, device: torch.device, loader: str = "") -> str:
    """Returns the flags that reduce the memory of a training on `device`, each with what it costs.

    Args:
        config: The settings of the run.
        device: Where it trains.
        loader: The name of its loader.
    """
    return "what reduces it, the most first: " + "; ".join(_flags(config, device, loader))


def _flags(config: TrainConfig, device: torch.device, loader: str) -> Iterator[str]:
    model, optim, data, run = config.model, config.optim, config.data, config.run
    if optim.batch_size > 1:
        yield f"--batch-size 1 --grad-accumulation {optim.images_per_step} (the same updates, one image at a time)"
    if run.side_by_side != "off" and not why_not_side_by_side(config, device):
        yield "--side-by-side off (one cycle after the other: half, where both ran at once)"
    if not run.activation_checkpointing and model.generator.startswith("resnet") and model.norm != "batch":
        yield "--activation-checkpointing (a quarter more work)"
    if run.amp == "off" and device.type == "cuda":
        yield "--amp bf16 (activations in 16 bits)"
    if data.has_one_size and data.crop_size >= 64:
        yield f"--crop-size {data.crop_size // 2 // 4 * 4} (a quarter)"
    elif not data.has_one_size:
        yield f"--preprocess scale_width_and_crop --crop-size {data.crop_size} (no image larger than that)"
    if loader == "cache":
        yield "--loader torch (images are not cached)"
    yield f"--ngf {max(1, model.ngf // 2)} --ndf {max(1, model.ndf // 2)} (half, for smaller networks)"
