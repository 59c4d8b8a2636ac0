"""What is odd about the pictures of a data set, and how much it matters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data import transforms
from cyclegan_fast.data.checks import too_small
from cyclegan_fast.data.decode import BadImageError
from cyclegan_fast.data.inspection import Facts
from cyclegan_fast.data.lookalikes import nearest
from cyclegan_fast.data.sources import Source

Severity = Literal["error", "warning", "info"]

KINDS: dict[str, tuple[Severity, str]] = {  # in the order in which they are told; the words are for people
    "folder": ("error", "folder that cannot be used"),
    "corrupt": ("error", "cannot be read"),
    "truncated": ("error", "ends too early"),
    "too small": ("error", "too small for these settings"),
    "quarantine": ("warning", "quarantine list"),
    "A and B": ("warning", "in A and in B"),
    "train and test": ("warning", "in train and in test"),
    "duplicate": ("warning", "there twice"),
    "near-identical": ("warning", "A looks like B"),
    "constant": ("warning", "a single colour"),
    "animated": ("warning", "animated: only one frame is used"),
    "enlarged": ("info", "enlarged to twice its size or more"),
    "extension": ("info", "name of another format"),
    "rotated": ("info", "EXIF rotates it"),
}

_FORMAT_OF = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
}
_ENLARGED_FROM = 2.0


@dataclass(frozen=True)
class Picture:
    """One picture and what is known of it."""

    name: str
    """Within the data folder."""
    domain: str
    """trainA, trainB, testA or testB."""
    source: Source
    found: Facts | BadImageError


@dataclass(frozen=True)
class Finding:
    """Something odd about one picture."""

    kind: str
    """A key of `KINDS`."""
    name: str
    """The picture, or what else is odd."""
    reason: str
    picture: Picture | None = None
    like: Picture | None = None
    """The picture that it is too like."""

    @property
    def severity(self) -> Severity:
        """error: training would stop, or be wrong; warning: look at it; info: good to know."""
        return KINDS[self.kind][0]


def judge(domains: Mapping[str, list[Picture]], config: DataConfig) -> list[Finding]:
    """Finds what is odd, the worst first.

    Args:
        domains: The pictures of trainA, trainB, testA, testB, as far as they are there.
        config: What training will make of them.

    Raises:
        UserError: Settings that fit no picture.
    """
    min_side = transforms.check_geometry(config)
    pictures = [picture for domain in domains.values() for picture in domain]
    findings = [finding for picture in pictures for finding in _of_one(picture, config, min_side)]
    findings += _copies(pictures)
    for split in ("train", "test"):
        findings += _lookalikes(domains.get(f"{split}A", []), domains.get(f"{split}B", []))
    return sorted_findings(findings)


def sorted_findings(findings: list[Finding]) -> list[Finding]:
    """Brings findings into the order of `KINDS`; those of one kind keep theirs."""
    order = list(KINDS)
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def _of_one(picture: Picture, config: DataConfig, min_side: int) -> Iterator[Finding]:
    """What is odd about a picture by itself."""

    def finding(kind: str, reason: str) -> Finding:
        return Finding(kind, picture.name, reason, picture)

    facts = picture.found
    if isinstance(facts, BadImageError):
        yield finding("truncated" if "truncated" in facts.reason else "corrupt", facts.reason)
        return
    became = transforms.sample_size(facts.size, config)
    if reason := too_small(facts.size, min_side):
        yield finding("too small", reason)
    elif min(became) < transforms.SMALLEST_SIDE:
        yield finding("too small", f"becomes {became[0]}x{became[1]} pixels; {transforms.SMALLEST_SIDE} are needed")
    resized = transforms.resized_size(facts.size, config)
    growth = max(new / old for new, old in zip(resized, facts.size, strict=True))
    if growth >= _ENLARGED_FROM and config.preprocess not in ("none", "crop"):
        yield finding("enlarged", f"{facts.width}x{facts.height} pixels, enlarged {growth:.1f} times")
    if facts.constant:
        yield finding("constant", "all its pixels are equal")
    if facts.frames > 1:
        yield finding("animated", f"{facts.frames} frames")
    suffix = PurePath(picture.source.member or picture.source.path).suffix
    if _FORMAT_OF.get(suffix.lower(), facts.format) != facts.format:
        yield finding("extension", f"named {suffix}, but it is {facts.format}")
    if facts.rotated:
        yield finding("rotated", "turned or mirrored by EXIF")


def _copies(pictures: list[Picture]) -> Iterator[Finding]:
    """Pictures with the same pixels, each told once, by the first one that it is like."""
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        if isinstance(picture.found, Facts) and not picture.found.constant:
            groups.setdefault(picture.found.pixels, []).append(picture)
    for group in groups.values():
        firsts: dict[str, Picture] = {}
        for picture in group:
            domain = picture.domain
            same_side = next((first for name, first in firsts.items() if name[-1] == domain[-1]), None)
            if domain in firsts:
                yield _copy("duplicate", picture, firsts[domain])
            elif same_side is not None:
                yield _copy("train and test", picture, same_side)
            elif firsts:
                yield _copy("A and B", picture, next(iter(firsts.values())))
            firsts.setdefault(domain, picture)


def _copy(kind: str, picture: Picture, like: Picture) -> Finding:
    assert isinstance(picture.found, Facts) and isinstance(like.found, Facts)
    what = "file" if picture.found.content == like.found.content else "pixels"
    return Finding(kind, picture.name, f"the same {what} as {like.name}", picture, like)


def _lookalikes(side_A: list[Picture], side_B: list[Picture]) -> Iterator[Finding]:
    """Pictures of A and the one of B that looks most like them, if any does; exact copies are told elsewhere."""
    sides = [
        [(p, p.found) for p in side if isinstance(p.found, Facts) and not p.found.constant] for side in (side_A, side_B)
    ]
    looks = [np.array([facts.look for _, facts in side], np.uint64) for side in sides]
    which, differing = nearest(looks[0], looks[1])
    for (picture, facts), index, bits in zip(sides[0], which.tolist(), differing.tolist(), strict=True):
        if index >= 0 and sides[1][index][1].pixels != facts.pixels:
            like = sides[1][index][0]
            yield Finding(
                "near-identical", picture.name, f"looks like {like.name} ({bits} of 63 bits differ)", picture, like
            )
