"""A checkpoint's folder: found, and read with every file compared with its manifest."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from cyclegan_fast.checkpoint.retention import Retention, Scored
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
from cyclegan_fast.metrics import DEFAULT_SCORE, find_metric

FORMAT_VERSION = 1
BEST = "best"  # RUN/best names the best checkpoint of a run

_MANIFEST = {"format": Number(0), "files": {str: {"sha256": str, "bytes": Number(0)}}}
_SCORES = {"scores": Maybe({str: Number(whole=False)}), "protocol": Maybe(str)}  # of settings.json
_SCORE = {"config": {"run": {"score": Maybe(str)}}}
_NAME = re.compile(r"step_(\d+)(?:\.(\d+))?")  # .1 is the second checkpoint of the same step


def latest_checkpoint(path: Path) -> Path | None:
    """The newest checkpoint of a run folder or a folder of checkpoints; a checkpoint itself; None if there is none.

    RUN/best is the best one of a run, see `named_checkpoint`.
    """
    path = named_checkpoint(Path(path))
    if (path / "manifest.json").is_file() or (path.is_dir() and _NAME.fullmatch(path.name)):
        return path
    for folder in (path / "checkpoints", path):
        if found := checkpoints_in(folder):
            return found[-1]
    return None


def kept_checkpoints(path: Path) -> list[Path]:
    """Returns the checkpoints of a run folder or a folder of checkpoints, oldest first; or the one that is named.

    Raises:
        UserError: There is none.
    """
    newest = find_checkpoint(path)
    return [newest] if newest == named_checkpoint(Path(path)) else checkpoints_in(newest.parent)


def stored_scores(folder: Path) -> list[Scored]:
    """Returns the checkpoints in a folder with their scores, oldest first; without them where one is damaged."""
    return [_scores_if_whole(checkpoint) for checkpoint in checkpoints_in(folder)]


def _scores_if_whole(checkpoint: Path) -> Scored:
    """As `read_scores`, without the search for a whole one before it."""
    try:
        _, files = _parse_manifest(checkpoint)
        stored = parse_json(_read_as_listed(checkpoint / "settings.json", files["settings.json"]))
        check(stored, _SCORES)
    except (DocumentError, OSError, KeyError):
        stored = {}
    return _scored(checkpoint, stored)


def read_scores(checkpoint: Path) -> Scored:
    """The scores of a checkpoint; those of an earlier version have none.

    Raises:
        UserError: It is damaged.
    """
    return _scored(checkpoint, read_document(checkpoint, "settings.json", _SCORES))


def _scored(checkpoint: Path, stored: dict[str, Any]) -> Scored:
    return Scored(order_of(checkpoint)[0], stored.get("scores") or {}, stored.get("protocol") or "")


def best_checkpoint(path: Path, score: str | None = None) -> Path | None:
    """Returns the best checkpoint of a run folder or a folder of checkpoints; None if none is scored by it.

    Args:
        path: The folder.
        score: The name of a score; by default that of the run's --score. Only scores of the newest protocol count.

    Raises:
        UserError: There is no such score.
    """
    newest = latest_checkpoint(path)
    if newest is None:
        return None
    if score is None:
        score = read_document(newest, "settings.json", _SCORE)["config"]["run"].get("score") or DEFAULT_SCORE
    best = Retention(best=1, score=score, higher_is_better=find_metric(score).higher_is_better)
    scored = [checkpoint for checkpoint in stored_scores(newest.parent) if score in checkpoint.scores]
    steps = best.best_steps(one for one in scored if one.protocol == scored[-1].protocol)
    found = [one for one in checkpoints_in(newest.parent) if order_of(one)[0] in steps]
    return found[-1] if found else None


def named_checkpoint(path: Path) -> Path:
    """Returns the best checkpoint of a run for RUN/best, where no such file is there; any other path as it is.

    Raises:
        UserError: It is that, and nothing in the run was scored.
    """
    run = path.parent
    if path.name != BEST or path.exists() or not checkpoints_in(run / "checkpoints"):
        return path
    found = best_checkpoint(run)
    if found is None:
        raise UserError(
            f"{path}: no checkpoint of {run} is scored, so that none is the best; name one of {run / 'checkpoints'}, "
            "or the run for its newest"
        )
    return found


def verify(path: Path) -> None:
    """Compares every file of a checkpoint (or of the newest in a run folder) with its manifest.

    Raises:
        UserError: A file is missing or differs; the message names it and the newest earlier checkpoint that is whole.
    """
    checkpoint = find_checkpoint(path)
    for name in read_manifest(checkpoint):
        _read(checkpoint, name)


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.is_dir() and _NAME.fullmatch(p.name)), key=order_of)


def order_of(checkpoint: Path) -> tuple[int, int]:
    """(step, revision) of a checkpoint; (-1, 0) of a renamed folder."""
    match = _NAME.fullmatch(checkpoint.name)
    return (int(match[1]), int(match[2] or 0)) if match else (-1, 0)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that `path` means."""
    found = latest_checkpoint(path)
    if found is None:
        raise MissingFileError(
            f"{path}: there is no checkpoint here; name a run folder, its checkpoints folder or a checkpoint"
        )
    return found


_MAX_NAME = 100  # characters; ours have 20


def read_manifest(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Name -> {"sha256", "bytes"} of every file of a checkpoint."""
    try:
        version, files = _parse_manifest(checkpoint)
    except (DocumentError, OSError) as error:
        raise damaged(checkpoint, "manifest.json", getattr(error, "strerror", None) or str(error)) from error
    if version > FORMAT_VERSION:
        raise UserError(f"{checkpoint} was written by a newer cyclegan_fast (format {version}): upgrade the package")
    return files


def _parse_manifest(checkpoint: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """(format version, entries) as they are stored."""
    manifest = read_json(checkpoint / "manifest.json")
    check(manifest, _MANIFEST)
    for name in manifest["files"]:
        check_path(name)
        is_name = len(name) <= _MAX_NAME and name.isprintable()
        if not is_name or Path(name).name != name:  # of a file elsewhere
            raise DocumentError(f"it lists {shown(name)}, which is no file of a checkpoint")
    return manifest["format"], manifest["files"]


def _read(checkpoint: Path, name: str) -> bytes:
    """The content of a file, after its size and sha256 were compared with the manifest."""
    expected = read_manifest(checkpoint).get(name)
    if expected is None:
        raise damaged(checkpoint, name, "the manifest does not list it")
    try:
        return _read_as_listed(checkpoint / name, expected)
    except (DocumentError, OSError) as error:
        raise damaged(checkpoint, name, getattr(error, "strerror", None) or str(error)) from error


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


def read_document(checkpoint: Path, name: str, shape: Any) -> Any:
    """What a JSON file of a checkpoint holds, of that shape; see `check`."""
    try:
        value = parse_json(_read(checkpoint, name))
        check(value, shape)
    except DocumentError as error:
        raise damaged(checkpoint, name, str(error)) from error
    return value


def read_tensors(checkpoint: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file of a checkpoint."""
    content = _read(checkpoint, name)
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise damaged(checkpoint, name, str(error)) from error


def damaged(checkpoint: Path, name: str, reason: str) -> UserError:
    """Makes the error about a damaged checkpoint, which names the newest intact one before it."""
    earlier = [path for path in checkpoints_in(checkpoint.parent) if order_of(path) < order_of(checkpoint)]
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
