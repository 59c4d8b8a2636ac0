"""From the state of a training to a checkpoint on the disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cyclegan_fast.checkpoint.folder import FORMAT_VERSION, checkpoints_in, order_of, stored_scores
from cyclegan_fast.checkpoint.retention import Retention, Scored
from cyclegan_fast.checkpoint.snapshot import Contents
from cyclegan_fast.checkpoint.tensor_file import tensor_file
from cyclegan_fast.checkpoint.tree import pack
from cyclegan_fast.config import ModelConfig, PixelFormat, TrainConfig, to_dict
from cyclegan_fast.files import building_folder, remove_folder, remove_leftovers, storage_errors, write_durably
from cyclegan_fast.version import __version__

Networks = Mapping[str, nn.Module] | nn.ModuleDict
WEIGHTS, RAW_WEIGHTS = "weights.safetensors", "raw_weights.safetensors"


def checkpoint_contents(
    scored: Scored,
    *,
    networks: Networks,
    config: TrainConfig,
    progress: dict[str, Any],
    pixel_formats: Mapping[str, PixelFormat] | None = None,
    state: dict[str, Any] | None = None,
    raw_networks: Networks | None = None,
) -> Contents:
    """Returns what a checkpoint is made of, with the tensors themselves, which the next step changes.

    Args:
        scored: The training steps done, and the scores of these weights; those that are not finite are left out.
        networks: As the others, of `save_checkpoint`.
        raw_networks: Those of which `networks` has averages, which go on training.
    """
    pixel_formats = pixel_formats or default_pixel_formats(config.model)
    settings = {
        "format": FORMAT_VERSION,
        "progress": {"step": scored.step, **progress},
        "versions": {"cyclegan_fast": __version__, "torch": str(torch.__version__)},
        "scores": {name: value for name, value in scored.scores.items() if math.isfinite(value)},
        "protocol": scored.protocol,
        "pixel_formats": {name: to_dict(pixel_format) for name, pixel_format in pixel_formats.items()},
        "config": to_dict(config),
    }
    files: dict[str, bytes | Mapping[str, Tensor]] = {WEIGHTS: _weights(networks), "settings.json": _json(settings)}
    if raw_networks:
        files[RAW_WEIGHTS] = _weights(raw_networks)
    if state is not None:
        tensors: dict[str, Tensor] = {}
        structure = _json(pack(state, tensors))
        files |= {"state.safetensors": tensors, "state.json": structure}
    return Contents(scored, files)


def write_checkpoint(folder: Path, contents: Contents, keep: Retention) -> Path:
    """Writes a checkpoint into `folder`, then removes those there that are not kept; see `save_checkpoint`."""
    step = contents.scored.step
    contents.wait()
    with storage_errors(f"cannot write the checkpoint of step {step} in {folder} (earlier ones are intact)"):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        same_step = [path for path in checkpoints_in(folder) if order_of(path)[0] == step]
        revision = f".{order_of(same_step[-1])[1] + 1}" if same_step else ""
        target = folder / f"step_{step:08d}{revision}"
        with building_folder(target) as partial:
            manifest = {
                name: write_durably(partial / name, [content] if isinstance(content, bytes) else tensor_file(content))
                for name, content in contents.files.items()
            }
            write_durably(partial / "manifest.json", [_json({"format": FORMAT_VERSION, "files": manifest})])
        for old in {*same_step, *_superseded(folder, keep)} - {target}:
            remove_folder(old)
    return target


def default_pixel_formats(model: ModelConfig) -> dict[str, PixelFormat]:
    """8-bit images of A and B."""
    return {"A": PixelFormat(channels=model.channels_A), "B": PixelFormat(channels=model.channels_B)}


def _weights(networks: Networks) -> dict[str, Tensor]:
    return {f"{net}.{key}": value for net in networks for key, value in networks[net].state_dict().items()}


def _superseded(folder: Path, keep: Retention) -> list[Path]:
    """The checkpoints in a folder that are not kept."""
    if not keep.newest:
        return []
    by_step = {order_of(path)[0]: path for path in checkpoints_in(folder)}
    return [by_step[step] for step in keep.to_remove(stored_scores(folder))]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
