"""The check of every picture before training: a bad one is found now, not in the middle of the night."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclegan_fast.data.decode import BadImageError
from cyclegan_fast.data.index import Index
from cyclegan_fast.data.inspection import Facts
from cyclegan_fast.data.sources import Source, as_source
from cyclegan_fast.errors import UserError

Size = tuple[int, int]  # width, height, in pixels
BadPolicy = Literal["error", "skip"]

_KEEP_FROM = 2000  # pictures; fewer are checked in seconds and leave no trace in the user's folder
_SECONDS_BETWEEN_WORDS = 15.0


@dataclass(frozen=True)
class CheckedImages:
    """What a check found."""

    good: list[Source]
    sizes: list[Size]
    """Upright size of each good image."""
    facts: list[Facts]
    """What is known of each good image, or of the one that it is a half of."""
    bad: list[BadImageError]


def check_images(
    images: Sequence[Source | Path | str],
    *,
    on_bad: BadPolicy = "error",
    min_side: int = 1,
    cache_folder: Path | None = None,
    say: Callable[[str], None] = print,
) -> CheckedImages:
    """Reads every picture to its end, in processes; of a folder that has an index, only what is new or changed.

    Args:
        images: The pictures.
        on_bad: "error" stops at the end of the check and names the first bad one; "skip" leaves bad ones out.
        min_side: A picture with a shorter side than this, in pixels, is bad.
        cache_folder: The data folder, which keeps the index (see `Index`): a large set starts one, `dataset check` too.
        say: Takes a word about a check that takes long.

    Raises:
        UserError: under "error", any bad file; under "skip", not one good file.
    """
    sources = [as_source(image) for image in images]
    index = Index(cache_folder, say)
    try:
        found = index.survey([source.whole for source in sources], progress=_Words(say))
    finally:  # even of a check that was interrupted
        if len(sources) >= _KEEP_FROM or index.exists():
            index.save()
    results = [_refuse_small(source, facts, min_side) for source, facts in zip(sources, found, strict=True)]
    bad = [r for r in results if isinstance(r, BadImageError)]
    if bad and on_bad == "error":
        more = f" ({len(bad)} bad files of {len(sources)})" if len(bad) > 1 else ""
        raise UserError(
            f"{bad[0]}{more}; replace or remove it, leave such files out with --on-bad-image skip, or list them all "
            f"with python -m cyclegan_fast.dataset check"
        )
    if len(bad) == len(sources):
        raise UserError(f"{bad[0]}; none of the {len(sources)} files can be used")
    good = {
        source: (size, facts)
        for source, size, facts in zip(sources, results, found, strict=True)
        if not isinstance(size, BadImageError) and not isinstance(facts, BadImageError)
    }
    return CheckedImages(list(good), [size for size, _ in good.values()], [facts for _, facts in good.values()], bad)


def too_small(size: Size, min_side: int) -> str:
    """Why a picture of `size` cannot be used, if its shorter side is below `min_side`; else an empty string."""
    width, height = size
    return f"{width}x{height} pixels, but the shorter side must be at least {min_side}" * (min(size) < min_side)


class _Words:
    """Says now and then how far a check is; nothing of a quick one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.began = say, time.monotonic()
        self.said = self.began

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.said >= _SECONDS_BETWEEN_WORDS:
            self.said, speed = now, done / (now - self.began)
            self.say(f"checking the pictures: {done:,}/{total:,}, {speed:.0f}/s, {(total - done) / speed:.0f} s left")


def _refuse_small(source: Source, found: Facts | BadImageError, min_side: int) -> Size | BadImageError:
    if isinstance(found, BadImageError):
        return found
    width, height = found.size
    size = source.columns(width)[1], height
    reason = too_small(size, min_side)
    return BadImageError(source, reason) if reason else size
