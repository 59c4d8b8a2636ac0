"""The check of every image file before training: a bad one is found now, not in the middle of the night."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclegan_fast.data.decode import BadImageError, probe
from cyclegan_fast.device import usable_cores
from cyclegan_fast.errors import UserError

Size = tuple[int, int]  # width, height, in pixels
BadPolicy = Literal["error", "skip"]

_CACHE_NAME = ".cyclegan_fast_checked.json"
_CACHE_FROM = 2000  # files; fewer are checked in seconds and leave no trace in the user's folder


@dataclass(frozen=True)
class CheckedImages:
    """What a check found."""

    good: list[Path]
    sizes: list[Size]
    """Upright size of each good image."""
    bad: list[BadImageError]


def check_images(
    paths: Sequence[Path], *, on_bad: BadPolicy = "error", min_side: int = 1, cache_folder: Path | None = None
) -> CheckedImages:
    """Decodes every file to its end, in threads (Pillow gives up the interpreter's lock while it decodes).

    Args:
        paths: The files.
        on_bad: "error" stops at the end of the check and names the first bad file; "skip" leaves bad files out.
        min_side: An image with a shorter side than this, in pixels, is bad.
        cache_folder: Where a large set's result is kept, so that the next check reads only new and changed files.

    Raises:
        UserError: under "error", any bad file; under "skip", not one good file.
    """
    known = _read_cache(cache_folder) if cache_folder is not None and len(paths) >= _CACHE_FROM else {}
    with ThreadPoolExecutor(usable_cores(), "check-images") as threads:
        results = list(threads.map(lambda path: _check(path, min_side, known), paths))
    bad = [r for r in results if isinstance(r, BadImageError)]
    if bad and on_bad == "error":
        more = f" ({len(bad)} bad files of {len(paths)})" if len(bad) > 1 else ""
        raise UserError(f"{bad[0]}{more}; replace or remove it, or leave such files out with --on-bad-image skip")
    if len(bad) == len(paths):
        raise UserError(f"{bad[0]}; none of the {len(paths)} files can be used")
    good = {path: r for path, r in zip(paths, results, strict=True) if not isinstance(r, BadImageError)}
    if cache_folder is not None and len(paths) >= _CACHE_FROM:
        _write_cache(cache_folder, good)
    return CheckedImages(list(good), list(good.values()), bad)


def _check(path: Path, min_side: int, known: dict[str, Any]) -> Size | BadImageError:
    try:
        width, height = _known_size(path, known) or probe(path)
    except BadImageError as error:
        return error
    if min(width, height) < min_side:
        return BadImageError(path, f"{width}x{height} pixels, but the shorter side must be at least {min_side}")
    return width, height


def _stamp(path: Path) -> list[int]:
    """What changes when a file does: its length in bytes and its time of change in nanoseconds."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _known_size(path: Path, known: dict[str, Any]) -> Size | None:
    """The size found by an earlier check of the same, unchanged file."""
    match known.get(str(path)):
        case [list(stamp), [int(width), int(height)]] if path.exists() and stamp == _stamp(path):
            return width, height
    return None


def _read_cache(folder: Path) -> dict[str, Any]:
    try:
        known = json.loads((folder / _CACHE_NAME).read_text())
    except (OSError, ValueError):
        return {}  # absent or damaged: the files are simply checked again
    return known if isinstance(known, dict) else {}


def _write_cache(folder: Path, good: dict[Path, Size]) -> None:
    """Keeps the result beside the data; a read-only folder keeps none, and the next check takes its time again."""
    try:
        known = _read_cache(folder) | {str(path): [_stamp(path), size] for path, size in good.items()}
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=_CACHE_NAME, delete=False) as file:
            json.dump(known, file)
        Path(file.name).replace(folder / _CACHE_NAME)
    except OSError:
        return
