"""Our checkpoints: one folder each, written under another name and moved into place in one step.

    <run>/checkpoints/step_00001200/
        weights.safetensors      every network, keys "G_A.stem.weight", contiguous NCHW; with --ema averaged generators
        settings.json            the run's full settings, its progress, the versions that wrote it
        raw_weights.safetensors  with --ema: the generators as they are trained, not averaged
        state.safetensors        what else an exact resume needs: tensors ...
        state.json               ... and the structure that holds them (see `tree`)
        manifest.json            sha256 and size of each file above

Whatever kills the process leaves the earlier checkpoints as they were; whatever a disk does to the bytes is found on
loading, by the manifest. There is no pickle anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from cyclegan_fast.checkpoint.folder import (
    damaged,
    find_checkpoint,
    latest_checkpoint,
    read_document,
    read_manifest,
    read_scores,
    read_tensors,
    verify,
)
from cyclegan_fast.checkpoint.retention import KEEP_ALL, Retention, Scored
from cyclegan_fast.checkpoint.saving import (
    RAW_WEIGHTS,
    WEIGHTS,
    Networks,
    checkpoint_contents,
    default_pixel_formats,
    write_checkpoint,
)
from cyclegan_fast.checkpoint.tree import unpack
from cyclegan_fast.checkpoint.weights import assign_weights, check_weights, freeze
from cyclegan_fast.config import PixelFormat, TrainConfig, from_dict
from cyclegan_fast.documents import DocumentError, Maybe, Number, check
from cyclegan_fast.errors import UserError
from cyclegan_fast.models import MODELS
from cyclegan_fast.nn import build_generator

__all__ = [
    "Settings",
    "default_pixel_formats",
    "latest_checkpoint",
    "load_generators",
    "load_state",
    "load_weights",
    "read_settings",
    "save_checkpoint",
    "verify",
]

_SETTINGS = {
    "config": dict,
    "progress": {
        "step": Number(0, 2**62),
        "epoch": Maybe(Number(0, 2**62)),
        "images": Maybe([Number(0)]),
        "ranks": Maybe(Number(1, 2**20)),
        "steps_ahead": Maybe(Number(-(2**62), 2**62)),
    },
    "versions": {str: str},
    "pixel_formats": Maybe({str: dict}),
    "forms": Maybe({str: dict}),  # as 0.1 called them
}


@dataclass(frozen=True)
class Settings:
    """The settings that are stored with a checkpoint."""

    config: TrainConfig
    progress: dict[str, Any]  # where in the run it was saved: step, epoch
    versions: dict[str, str]  # of cyclegan_fast and torch that wrote it
    pixel_formats: dict[str, PixelFormat]  # of the images of A and B, as the networks name the domains
    scores: dict[str, float]  # of these weights, by name
    protocol: str = ""  # how they were computed


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    networks: Networks,
    config: TrainConfig,
    progress: dict[str, Any],
    pixel_formats: Mapping[str, PixelFormat] | None = None,
    state: dict[str, Any] | None = None,
    scores: Mapping[str, float] | None = None,
    keep: Retention = KEEP_ALL,
) -> Path:
    """Writes a checkpoint into `folder`; a process killed meanwhile leaves the earlier ones as they were.

    Args:
        folder: The folder of checkpoints, created if missing.
        step: Training steps done.
        networks: Stored under their names.
        config: The run's settings, stored in full.
        progress: Where in the run this is; numbers and strings.
        pixel_formats: Of the images of A and B, as the networks name the domains; by default 8 bit.
        state: What else an exact resume needs: a nest of dictionaries, lists, tuples, tensors, numbers, strings, None.
        scores: Of these weights, by name; those that are not finite are left out.
        keep: Which checkpoints to keep; by default all.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: The disk is full, the folder is read-only, or the like. The earlier checkpoints are intact.
    """
    contents = checkpoint_contents(
        Scored(step, scores or {}),
        networks=networks,
        config=config,
        progress=progress,
        pixel_formats=pixel_formats,
        state=state,
    )
    return write_checkpoint(Path(folder), contents, keep)


def read_settings(path: Path) -> Settings:
    """Reads the settings of a checkpoint (or of the newest in a run folder), verified against the manifest.

    Raises:
        UserError: There is no checkpoint, it is damaged, or a newer version of the package wrote it.
    """
    checkpoint = find_checkpoint(path)
    stored = read_document(checkpoint, "settings.json", _SETTINGS)
    config = from_dict(TrainConfig, stored["config"], where=f"{checkpoint / 'settings.json'}: config")
    where = f"{checkpoint / 'settings.json'}: pixel_formats"
    pixel_formats = {
        name: from_dict(PixelFormat, pixel_format, where=where)
        for name, pixel_format in (stored.get("pixel_formats") or stored.get("forms") or {}).items()
    }
    scored = read_scores(checkpoint)
    return Settings(
        config=config,
        progress=stored["progress"],
        versions=stored["versions"],
        pixel_formats=default_pixel_formats(config.model) | pixel_formats,
        scores=dict(scored.scores),
        protocol=scored.protocol,
    )


def load_weights(path: Path, networks: Networks, *, raw: bool = False) -> None:
    """Loads the named networks from a checkpoint (or the newest in a run folder).

    Args:
        path: The checkpoint.
        networks: By name.
        raw: Load the generators as they are trained, of a checkpoint that has averages of them (--ema), too.

    Raises:
        UserError: There is no checkpoint, it is damaged, it does not fit the networks, or it holds no raw weights.
    """
    checkpoint = find_checkpoint(path)
    weights = _weights_of(checkpoint, networks, raw=raw)
    for name, network in networks.items():
        assign_weights(network, weights[name], f"{checkpoint}: {name}")


def load_state(path: Path) -> dict[str, Any]:
    """Returns the `state` that a checkpoint (or the newest in a run folder) was saved with, its tensors on the CPU.

    Raises:
        UserError: There is no checkpoint, it is damaged, or it holds no training state.
    """
    checkpoint = find_checkpoint(path)
    if "state.json" not in read_manifest(checkpoint):
        raise UserError(f"{checkpoint} holds weights but no training state: start from it with --init-from instead")
    tensors = read_tensors(checkpoint, "state.safetensors")
    try:
        state = unpack(read_document(checkpoint, "state.json", dict), tensors)
        check(state, dict)
    except DocumentError as error:
        raise damaged(checkpoint, "state.json", str(error)) from error
    return cast(dict[str, Any], state)


def load_generators(
    path: Path, device: torch.device | str = "cpu", *, raw: bool = False
) -> tuple[dict[str, nn.Module], Settings]:
    """Builds the generators of a checkpoint (or of the newest in a run folder), in evaluation and frozen.

    They are G_A and G_B, or G_A alone of a model of one direction.

    Draws no random numbers.

    Args:
        path: The checkpoint.
        device: Where to load them.
        raw: Load them as they are trained, of a checkpoint that has averages of them (--ema), too.

    Returns:
        The generators by name, and the checkpoint's settings.

    Raises:
        UserError: There is no checkpoint, it is damaged, or it holds no raw weights.
    """
    checkpoint = find_checkpoint(path)
    settings = read_settings(checkpoint)
    with torch.device("meta"):  # the weights are loaded anyway: nothing is drawn for them
        model = settings.config.model
        generators = MODELS[model.model].generators
        networks = {name: build_generator(model, direction) for name, direction in generators.items()}
    weights = _weights_of(checkpoint, networks, raw=raw)  # checked before any memory is taken for them
    for name, network in networks.items():
        network.to_empty(device=device)
        assign_weights(network, weights[name], f"{checkpoint}: {name}")
    return {name: freeze(network) for name, network in networks.items()}, settings


def _weights_of(checkpoint: Path, networks: Networks, *, raw: bool) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of the named networks, which fit them."""
    if raw and RAW_WEIGHTS not in read_manifest(checkpoint):
        raise UserError(f"{checkpoint} holds no raw weights, as its generators are no averages (--ema)")
    tensors = read_tensors(checkpoint, RAW_WEIGHTS if raw else WEIGHTS)
    weights = {}
    for name, network in networks.items():
        prefix = f"{name}."
        weights[name] = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        check_weights(network, weights[name], f"{checkpoint}: {name}")
    return weights
