"""Our checkpoints: one folder each, written under another name and moved into place in one step.

    <run>/checkpoints/step_00001200/
        weights.safetensors   every network, keys "G_A.stem.weight", contiguous NCHW
        settings.json         the run's full settings, its progress, the versions that wrote it
        state.safetensors     what else an exact resume needs: tensors ...
        state.json            ... and the structure that holds them (see `tree`)
        manifest.json         sha256 and size of each file above

Whatever kills the process leaves the earlier checkpoints as they were; whatever a disk does to the bytes is found on
loading, by the manifest. There is no pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import nn

from cyclegan_fast.checkpoint.tree import pack, unpack
from cyclegan_fast.checkpoint.weights import assign_weights, check_weights, freeze, read_weights
from cyclegan_fast.config import ModelConfig, PixelFormat, TrainConfig, from_dict, to_dict
from cyclegan_fast.documents import (
    DocumentError,
    Maybe,
    Number,
    check,
    check_path,
    parse_json,
    read_json,
    read_limited,
    shown,
)
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.files import (
    building_folder,
    remove_folder,
    remove_leftovers,
    storage_errors,
    write_durably,
)
from cyclegan_fast.nn import build_generator
from cyclegan_fast.version import __version__

FORMAT_VERSION = 1

Networks = Mapping[str, nn.Module] | nn.ModuleDict
_MANIFEST = {"format": Number(0), "files": {str: {"sha256": str, "bytes": Number(0)}}}
_SETTINGS = {
    "config": dict,
    "progress": {"step": Number(0, 2**62), "epoch": Maybe(Number(0, 2**62)), "images": Maybe([Number(0)])},
    "versions": {str: str},
    "pixel_formats": Maybe({str: dict}),
    "forms": Maybe({str: dict}),  # as 0.1 called them
}
_NAME = re.compile(r"step_(\d+)(?:\.(\d+))?")  # .1 is the second checkpoint of the same step


@dataclass(frozen=True)
class Settings:
    """The settings that are stored with a checkpoint."""

    config: TrainConfig
    progress: dict[str, Any]  # where in the run it was saved: step, epoch
    versions: dict[str, str]  # of cyclegan_fast and torch that wrote it
    pixel_formats: dict[str, PixelFormat]  # of the images of A and B, as the networks name the domains


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    networks: Networks,
    config: TrainConfig,
    progress: dict[str, Any],
    pixel_formats: Mapping[str, PixelFormat] | None = None,
    state: dict[str, Any] | None = None,
    keep: int = 0,
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
        keep: Newest checkpoints to keep; 0 keeps all.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: The disk is full, the folder is read-only, or the like. The earlier checkpoints are intact.
    """
    folder = Path(folder)
    contents = _weights_and_settings(
        networks, config, {"step": step, **progress}, pixel_formats or default_pixel_formats(config.model)
    )
    if state is not None:
        contents |= _state_files(state)
    with storage_errors(f"cannot write the checkpoint of step {step} in {folder} (earlier ones are intact)"):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        same_step = [path for path in _checkpoints_in(folder) if _order(path)[0] == step]
        revision = f".{_order(same_step[-1])[1] + 1}" if same_step else ""
        target = folder / f"step_{step:08d}{revision}"
        with building_folder(target) as partial:
            manifest = {name: write_durably(partial / name, content) for name, content in contents.items()}
            write_durably(partial / "manifest.json", _json({"format": FORMAT_VERSION, "files": manifest}))
        superseded = _checkpoints_in(folder)[:-keep] if keep else []
        for old in {*same_step, *superseded} - {target}:
            remove_folder(old)
    return target


def latest_checkpoint(path: Path) -> Path | None:
    """The newest checkpoint of a run folder or a folder of checkpoints; a checkpoint itself; None if there is none."""
    path = Path(path)
    if (path / "manifest.json").is_file() or (path.is_dir() and _NAME.fullmatch(path.name)):
        return path
    for folder in (path / "checkpoints", path):
        if found := _checkpoints_in(folder):
            return found[-1]
    return None


def read_settings(path: Path) -> Settings:
    """Reads the settings of a checkpoint (or of the newest in a run folder), verified against the manifest.

    Raises:
        UserError: There is no checkpoint, it is damaged, or a newer version of the package wrote it.
    """
    checkpoint = _checkpoint(path)
    stored = _parse(checkpoint, "settings.json", _SETTINGS)
    config = from_dict(TrainConfig, stored["config"], where=f"{checkpoint / 'settings.json'}: config")
    where = f"{checkpoint / 'settings.json'}: pixel_formats"
    pixel_formats = {
        name: from_dict(PixelFormat, pixel_format, where=where)
        for name, pixel_format in (stored.get("pixel_formats") or stored.get("forms") or {}).items()
    }
    return Settings(config, stored["progress"], stored["versions"], default_pixel_formats(config.model) | pixel_formats)


def default_pixel_formats(model: ModelConfig) -> dict[str, PixelFormat]:
    """8-bit images of A and B."""
    return {"A": PixelFormat(channels=model.channels_A), "B": PixelFormat(channels=model.channels_B)}


def load_weights(path: Path, networks: Networks) -> None:
    """Loads the named networks from a checkpoint (or the newest in a run folder).

    Raises:
        UserError: There is no checkpoint, it is damaged, or it does not fit the networks.
    """
    checkpoint = _checkpoint(path)
    weights = _weights_of(checkpoint, networks)
    for name, network in networks.items():
        assign_weights(network, weights[name], f"{checkpoint}: {name}")


def load_state(path: Path) -> dict[str, Any]:
    """Returns the `state` that a checkpoint (or the newest in a run folder) was saved with, its tensors on the CPU.

    Raises:
        UserError: There is no checkpoint, it is damaged, or it holds no training state.
    """
    checkpoint = _checkpoint(path)
    if "state.json" not in _manifest(checkpoint):
        raise UserError(f"{checkpoint} holds weights but no training state: start from it with --init-from instead")
    tensors = _tensors(checkpoint, "state.safetensors")
    try:
        state = unpack(_parse(checkpoint, "state.json", dict), tensors)
        check(state, dict)
    except DocumentError as error:
        raise _damaged(checkpoint, "state.json", str(error)) from error
    return cast(dict[str, Any], state)


def load_generators(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, nn.Module], Settings]:
    """Builds G_A and G_B of a checkpoint (or of the newest in a run folder), in evaluation and frozen.

    Draws no random numbers.

    Returns:
        The generators by name, and the checkpoint's settings.

    Raises:
        UserError: There is no checkpoint, or it is damaged.
    """
    checkpoint = _checkpoint(path)
    settings = read_settings(checkpoint)
    with torch.device("meta"):  # the weights are loaded anyway: nothing is drawn for them
        model = settings.config.model
        networks = {"G_A": build_generator(model, "AtoB"), "G_B": build_generator(model, "BtoA")}
    weights = _weights_of(checkpoint, networks)  # checked before any memory is taken for them
    for name, network in networks.items():
        network.to_empty(device=device)
        assign_weights(network, weights[name], f"{checkpoint}: {name}")
    return {name: freeze(network) for name, network in networks.items()}, settings


def verify(path: Path) -> None:
    """Compares every file of a checkpoint (or of the newest in a run folder) with its manifest.

    Raises:
        UserError: A file is missing or differs; the message names it and the newest earlier checkpoint that is whole.
    """
    checkpoint = _checkpoint(path)
    for name in _manifest(checkpoint):
        _read(checkpoint, name)


def _weights_and_settings(
    networks: Networks, config: TrainConfig, progress: dict[str, Any], pixel_formats: Mapping[str, PixelFormat]
) -> dict[str, bytes]:
    """The files that every checkpoint has."""
    tensors = {
        f"{net}.{key}": value for net, network in networks.items() for key, value in read_weights(network).items()
    }
    versions = {"cyclegan_fast": __version__, "torch": str(torch.__version__)}
    settings = {
        "format": FORMAT_VERSION,
        "progress": progress,
        "versions": versions,
        "pixel_formats": {name: to_dict(pixel_format) for name, pixel_format in pixel_formats.items()},
        "config": to_dict(config),
    }
    return {"weights.safetensors": safetensors.torch.save(tensors), "settings.json": _json(settings)}


def _state_files(state: dict[str, Any]) -> dict[str, bytes]:
    """The files of a training state."""
    tensors: dict[str, torch.Tensor] = {}
    structure = pack(state, tensors)
    return {"state.safetensors": safetensors.torch.save(tensors), "state.json": _json(structure)}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.is_dir() and _NAME.fullmatch(p.name)), key=_order)


def _order(checkpoint: Path) -> tuple[int, int]:
    """(step, revision) of a checkpoint; (-1, 0) of a renamed folder."""
    match = _NAME.fullmatch(checkpoint.name)
    return (int(match[1]), int(match[2] or 0)) if match else (-1, 0)


def _checkpoint(path: Path) -> Path:
    """The checkpoint that `path` means."""
    found = latest_checkpoint(path)
    if found is None:
        raise MissingFileError(
            f"{path}: there is no checkpoint here; name a run folder, its checkpoints folder or a checkpoint"
        )
    return found


def _manifest(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Name -> {"sha256", "bytes"} of every file of a checkpoint."""
    try:
        version, files = _parse_manifest(checkpoint)
    except (DocumentError, OSError) as error:
        raise _damaged(checkpoint, "manifest.json", getattr(error, "strerror", None) or str(error)) from error
    if version > FORMAT_VERSION:
        raise UserError(f"{checkpoint} was written by a newer cyclegan_fast (format {version}): upgrade the package")
    return files


def _parse_manifest(checkpoint: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """(format version, entries) as they are stored."""
    manifest = read_json(checkpoint / "manifest.json")
    check(manifest, _MANIFEST)
    for name in manifest["files"]:
        check_path(name)
        if Path(name).name != name:  # of a file elsewhere
            raise DocumentError(f"it lists {shown(name)}, which is no file of a checkpoint")
    return manifest["format"], manifest["files"]


def _read(checkpoint: Path, name: str) -> bytes:
    """The content of a file, after its size and sha256 were compared with the manifest."""
    expected = _manifest(checkpoint).get(name)
    if expected is None:
        raise _damaged(checkpoint, name, "the manifest does not list it")
    try:
        return _read_as_listed(checkpoint / name, expected)
    except (DocumentError, OSError) as error:
        raise _damaged(checkpoint, name, getattr(error, "strerror", None) or str(error)) from error


def _read_as_listed(path: Path, expected: dict[str, Any]) -> bytes:
    """The content of a file that is as its entry in the manifest says; its size is compared before it is read.

    Raises:
        DocumentError: It differs.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise DocumentError(f"it has {size} bytes, not {shown(expected['bytes'])}")
    content = read_limited(path, size)
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise DocumentError("its sha256 is not the manifest's")
    return content


def _weights_of(checkpoint: Path, networks: Networks) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of the named networks, which fit them."""
    tensors = _tensors(checkpoint, "weights.safetensors")
    weights = {}
    for name, network in networks.items():
        prefix = f"{name}."
        weights[name] = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        check_weights(network, weights[name], f"{checkpoint}: {name}")
    return weights


def _parse(checkpoint: Path, name: str, shape: Any) -> Any:
    """What a JSON file of a checkpoint holds, of that shape; see `check`."""
    try:
        value = parse_json(_read(checkpoint, name))
        check(value, shape)
    except DocumentError as error:
        raise _damaged(checkpoint, name, str(error)) from error
    return value


def _tensors(checkpoint: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file of a checkpoint."""
    content = _read(checkpoint, name)
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _damaged(checkpoint, name, str(error)) from error


def _damaged(checkpoint: Path, name: str, reason: str) -> UserError:
    """Makes the error about a damaged checkpoint, which names the newest intact one before it."""
    earlier = [path for path in _checkpoints_in(checkpoint.parent) if _order(path) < _order(checkpoint)]
    whole = next(filter(_is_whole, reversed(earlier)), None)
    advice = f"remove that folder to go on from {whole}" if whole else "there is no whole checkpoint before it"
    return UserError(f"{checkpoint / name} is damaged: {reason}; {advice}")


def _is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is as its manifest says."""
    try:
        _, files = _parse_manifest(checkpoint)
        for name, expected in files.items():
            _read_as_listed(checkpoint / name, expected)
    except (DocumentError, OSError):
        return False
    return True
