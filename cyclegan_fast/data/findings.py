"""What is odd about the pictures of a data set, and how much it matters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np

from cyclegan_fast.config import DataConfig, Form
from cyclegan_fast.data import transforms
from cyclegan_fast.data.checks import too_small
from cyclegan_fast.data.decode import BadImageError
from cyclegan_fast.data.forms import DEPTH_NAMES, depth_of, told_depths
from cyclegan_fast.data.inspection import Facts, why_not
from cyclegan_fast.data.lookalikes import nearest
from cyclegan_fast.data.places import match_names
from cyclegan_fast.data.sources import Source

Severity = Literal["error", "warning", "info"]

KINDS: dict[str, tuple[Severity, str]] = {  # in the order in which they are told; the words are for people
    "folder": ("error", "folder that cannot be used"),
    "corrupt": ("error", "cannot be read"),
    "truncated": ("error", "ends too early"),
    "too small": ("error", "too small for these settings"),
    "form": ("error", "other channels than these settings want"),
    "partner": ("error", "without a partner"),
    "quarantine": ("warning", "quarantine list"),
    "A and B": ("warning", "in A and in B"),
    "train and test": ("warning", "in train and in test"),
    "duplicate": ("warning", "there twice"),
    "pair sizes": ("warning", "of another size than its partner"),
    "mixed": ("warning", "pictures of several depths in one domain"),
    "near-identical": ("warning", "A looks like B"),
    "near train and test": ("warning", "test looks like train"),
    "constant": ("warning", "a single colour"),
    "animated": ("warning", "animated: only one frame is used"),
    "range": ("info", "values without a range of their own"),
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
    """Within the data folder; its whole name, if it is from elsewhere."""
    domain: str
    """trainA, trainB, testA or testB; train, val or test where A and B are side by side."""
    source: Source
    found: Facts | BadImageError

    @property
    def side(self) -> str:
        """A, B, or empty for both."""
        return _side(self.domain)

    @property
    def size(self) -> transforms.Size:
        """What training makes a sample of, in pixels, upright: the picture, or half of it."""
        assert isinstance(self.found, Facts)
        width, height = self.found.size
        return (width if self.side else width // 2), height


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


def judge(
    domains: Mapping[str, list[Picture]], config: DataConfig, channels: tuple[int, int] = (3, 3)
) -> list[Finding]:
    """Finds what is odd, the worst first.

    Args:
        domains: The pictures of each domain, as far as they are there.
        config: What training will make of them.
        channels: Of the images of A and of B.

    Raises:
        UserError: Settings that fit no picture.
    """
    min_side = transforms.check_geometry(config)
    pictures = [picture for domain in domains.values() for picture in domain]
    findings = [finding for picture in pictures for finding in _of_one(picture, config, min_side)]
    for name, domain in domains.items():
        findings += _of_domain(name, domain, config, channels)
    findings += _copies(pictures)
    for split in ("train", "test"):
        sides = domains.get(f"{split}A", []), domains.get(f"{split}B", [])
        findings += _unlike_sizes(*sides) if config.paired else _lookalikes("near-identical", *sides)
    for late, early in (("testA", "trainA"), ("testB", "trainB"), ("val", "train"), ("test", "train")):
        findings += _lookalikes("near train and test", domains.get(late, []), domains.get(early, []))
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
    width, height = picture.size
    became = transforms.sample_size((width, height), config)
    if reason := too_small((width, height), min_side):
        yield finding("too small", reason)
    elif min(became) < transforms.SMALLEST_SIDE:
        yield finding("too small", f"becomes {became[0]}x{became[1]} pixels; {transforms.SMALLEST_SIDE} are needed")
    resized = transforms.resized_size((width, height), config)
    growth = max(new / max(1, old) for new, old in zip(resized, (width, height), strict=True))
    if growth >= _ENLARGED_FROM and config.preprocess not in ("none", "crop"):
        yield finding("enlarged", f"{width}x{height} pixels, enlarged {growth:.1f} times")
    if facts.constant:
        yield finding("constant", "all its pixels are equal")
    if facts.frames > 1:
        yield finding("animated", f"{facts.frames} frames")
    suffix = PurePath(picture.source.member or picture.source.path).suffix
    if _FORMAT_OF.get(suffix.lower(), facts.format) != facts.format:
        yield finding("extension", f"named {suffix}, but it is {facts.format}")
    if facts.rotated:
        yield finding("rotated", "turned or mirrored by EXIF")


def _of_domain(
    name: str, pictures: Sequence[Picture], config: DataConfig, channels: tuple[int, int]
) -> Iterator[Finding]:
    """Depths and channels: whether one form fits all."""
    good = [(picture, picture.found) for picture in pictures if isinstance(picture.found, Facts)]
    if not good:
        return
    known = [facts for _, facts in good]
    depth = depth_of(known) if config.depth == "auto" else config.depth
    if len({facts.values for facts in known}) > 1:
        yield Finding("mixed", name, f"{told_depths(known)}: all are taken as {DEPTH_NAMES[depth]} (--depth)")
    if depth == "float" and (config.value_low is None or config.value_high is None):
        low, high = min(facts.low for facts in known), max(facts.high for facts in known)
        yield Finding("range", name, f"from {low:g} to {high:g}: training needs --value-low and --value-high")
    for wanted in sorted(set(channels) if not _side(name) else {channels["AB".index(_side(name))]}):
        form = Form(channels=wanted, depth=depth)
        for picture, facts in good:
            if reason := why_not(facts, form):
                yield Finding("form", picture.name, reason, picture)


def _side(domain: str) -> str:
    return domain[-1] if domain.endswith(("A", "B")) else ""


def _unlike_sizes(side_A: Sequence[Picture], side_B: Sequence[Picture]) -> Iterator[Finding]:
    """Pairs whose pictures have different sizes, so that crops of them show different places."""
    if not side_A or not side_B:
        return
    of = {picture.source: picture for picture in [*side_A, *side_B] if isinstance(picture.found, Facts)}
    pairs, _ = match_names([p.source for p in side_A], [p.source for p in side_B])
    for a, b in pairs:
        if a in of and b in of and of[a].size != of[b].size:
            (w, h), (v, g) = of[a].size, of[b].size
            yield Finding("pair sizes", of[a].name, f"{w}x{h} pixels, and {of[b].name} has {v}x{g}", of[a], of[b])


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
            same_side = next((first for first in firsts.values() if first.side == picture.side), None)
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


def _lookalikes(kind: str, pictures: Sequence[Picture], others: Sequence[Picture]) -> Iterator[Finding]:
    """Pictures and which of the others looks most like each, if any does; exact copies are told elsewhere."""
    sides = [
        [(p, p.found) for p in side if isinstance(p.found, Facts) and not p.found.constant]
        for side in (pictures, others)
    ]
    looks = [np.array([facts.look for _, facts in side], np.uint64) for side in sides]
    which, differing = nearest(looks[0], looks[1])
    for (picture, facts), index, bits in zip(sides[0], which.tolist(), differing.tolist(), strict=True):
        if index >= 0 and sides[1][index][1].pixels != facts.pixels:
            like = sides[1][index][0]
            yield Finding(kind, picture.name, f"looks like {like.name} ({bits} of 63 bits differ)", picture, like)
