"""Findings about the images of a data set: what is unusual or wrong, and how much it matters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np

from cyclegan_fast.config import DataConfig, PixelFormat
from cyclegan_fast.data import transforms
from cyclegan_fast.data.audit.near_duplicates import nearest
from cyclegan_fast.data.catalog.check import too_small
from cyclegan_fast.data.catalog.pixel_formats import DEPTH_NAMES, count_depths, depth_of
from cyclegan_fast.data.catalog.probe import ImageMetadata, why_not
from cyclegan_fast.data.locations.pairs import match_names
from cyclegan_fast.images.decode import BadImageError
from cyclegan_fast.images.image_file import ImageFile

Severity = Literal["error", "warning", "info"]

KINDS: dict[str, tuple[Severity, str]] = {  # in the order of the report; the text is for people
    "folder": ("error", "folder that cannot be used"),
    "corrupt": ("error", "cannot be read"),
    "truncated": ("error", "ends too early"),
    "too small": ("error", "too small for these settings"),
    "pixel format": ("error", "other channels than these settings want"),
    "partner": ("error", "without a partner"),
    "quarantine": ("warning", "quarantine list"),
    "A and B": ("warning", "in A and in B"),
    "train and test": ("warning", "in train and in test"),
    "duplicate": ("warning", "there twice"),
    "pair sizes": ("warning", "of another size than its partner"),
    "mixed": ("warning", "images of several depths in one domain"),
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
_NEARLY_ALL = 0.9  # of the images that can be read: enlarged, they are one finding about the settings


@dataclass(frozen=True)
class AuditedImage:
    """One image and what is known of it."""

    name: str
    """Within the data folder; its whole name, if it is from elsewhere."""
    domain: str
    """trainA, trainB, testA or testB; train, val or test where A and B are side by side."""
    file: ImageFile
    metadata: ImageMetadata | BadImageError
    """What is known of it, or why it cannot be read."""

    @property
    def side(self) -> str:
        """A, B, or empty for both."""
        return _side(self.domain)

    @property
    def size(self) -> transforms.Size:
        """What training makes a sample of, in pixels, upright: the image, or half of it."""
        assert isinstance(self.metadata, ImageMetadata)
        width, height = self.metadata.size
        return (width if self.side else width // 2), height


@dataclass(frozen=True)
class Finding:
    """One finding, most of them about one image."""

    kind: str
    """A key of `KINDS`."""
    name: str
    """Of the image, the domain or the line that it is about."""
    reason: str
    image: AuditedImage | None = None
    like: AuditedImage | None = None
    """The image that it is too similar to."""
    images: int = 1
    """How many it is about."""

    @property
    def severity(self) -> Severity:
        """error: training would stop, or be wrong; warning: look at it; info: good to know."""
        return KINDS[self.kind][0]


def find_all(
    domains: Mapping[str, list[AuditedImage]], config: DataConfig, channels: tuple[int, int] = (3, 3)
) -> list[Finding]:
    """Looks for everything that `KINDS` names, the worst first.

    Args:
        domains: The images of each domain, as far as they are there.
        config: What training will make of them.
        channels: Of the images of A and of B.

    Raises:
        UserError: Settings that fit no image.
    """
    min_side = transforms.check_geometry(config)
    images = [image for domain in domains.values() for image in domain]
    findings = [finding for image in images for finding in _of_one(image, config, min_side)]
    findings = _with_one_if_nearly_all_are_enlarged(findings, images, config)
    for name, domain in domains.items():
        findings += _of_domain(name, domain, config, channels)
    findings += _duplicates(images)
    for split in ("train", "test"):
        sides = domains.get(f"{split}A", []), domains.get(f"{split}B", [])
        findings += _pairs_of_two_sizes(*sides) if config.paired else _near_duplicates("near-identical", *sides)
    for late, early in (("testA", "trainA"), ("testB", "trainB"), ("val", "train"), ("test", "train")):
        findings += _near_duplicates("near train and test", domains.get(late, []), domains.get(early, []))
    return sorted_findings(findings)


def sorted_findings(findings: list[Finding]) -> list[Finding]:
    """Brings findings into the order of `KINDS`; those of one kind keep theirs."""
    order = list(KINDS)
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def _of_one(image: AuditedImage, config: DataConfig, min_side: int) -> Iterator[Finding]:
    """Findings about an image by itself."""

    def finding(kind: str, reason: str) -> Finding:
        return Finding(kind, image.name, reason, image)

    metadata = image.metadata
    if isinstance(metadata, BadImageError):
        yield finding("truncated" if "truncated" in metadata.reason else "corrupt", metadata.reason)
        return
    width, height = image.size
    sample = transforms.sample_size((width, height), config)
    if reason := too_small((width, height), min_side):
        yield finding("too small", reason)
    elif min(sample) < transforms.MIN_SIDE:
        yield finding("too small", f"becomes {sample[0]}x{sample[1]} pixels; {transforms.MIN_SIDE} are needed")
    resized = transforms.resized_size((width, height), config)
    growth = max(new / max(1, old) for new, old in zip(resized, (width, height), strict=True))
    if growth >= _ENLARGED_FROM and config.preprocess not in ("none", "crop"):
        yield finding("enlarged", f"{width}x{height} pixels, enlarged {growth:.1f} times for {_geometry(config)}")
    if metadata.constant:
        yield finding("constant", "all its pixels are equal")
    if metadata.frames > 1:
        yield finding("animated", f"{metadata.frames} frames")
    suffix = PurePath(image.file.member or image.file.path).suffix
    if _FORMAT_OF.get(suffix.lower(), metadata.format) != metadata.format:
        yield finding("extension", f"named {suffix}, but it is {metadata.format}")
    if metadata.rotated:
        yield finding("rotated", "turned or mirrored by EXIF")


def _geometry(config: DataConfig) -> str:
    """Returns the settings that say how large an image becomes."""
    crop = f" --crop-size {config.crop_size}" * (config.preprocess == "scale_width_and_crop")
    return f"--load-size {config.load_size}{crop}"


def _with_one_if_nearly_all_are_enlarged(
    findings: list[Finding], images: Sequence[AuditedImage], config: DataConfig
) -> list[Finding]:
    """Replaces the findings "enlarged" by one where they are about nearly all images."""
    count = sum(finding.kind == "enlarged" for finding in findings)
    good = sum(isinstance(image.metadata, ImageMetadata) for image in images)
    if not count or count < _NEARLY_ALL * good:
        return findings
    reason = f"for {_geometry(config)}; dataset plan proposes settings that suit these images"
    one = Finding("enlarged", f"{count:,} of {len(images):,} images", reason, images=count)
    return [*(finding for finding in findings if finding.kind != "enlarged"), one]


def _of_domain(
    name: str, images: Sequence[AuditedImage], config: DataConfig, channels: tuple[int, int]
) -> Iterator[Finding]:
    """Depths and channels: whether one pixel format fits all."""
    good = [(image, image.metadata) for image in images if isinstance(image.metadata, ImageMetadata)]
    if not good:
        return
    known = [metadata for _, metadata in good]
    depth = depth_of(known) if config.depth == "auto" else config.depth
    if len({metadata.values for metadata in known}) > 1:
        yield Finding("mixed", name, f"{count_depths(known)}: all are taken as {DEPTH_NAMES[depth]} (--depth)")
    if depth == "float" and (config.value_low is None or config.value_high is None):
        low, high = min(metadata.low for metadata in known), max(metadata.high for metadata in known)
        yield Finding("range", name, f"from {low:g} to {high:g}: training needs --value-low and --value-high")
    for wanted in sorted(set(channels) if not _side(name) else {channels["AB".index(_side(name))]}):
        pixel_format = PixelFormat(channels=wanted, depth=depth)
        for image, metadata in good:
            if reason := why_not(metadata, pixel_format):
                yield Finding("pixel format", image.name, reason, image)


def _side(domain: str) -> str:
    return domain[-1] if domain.endswith(("A", "B")) else ""


def _pairs_of_two_sizes(side_A: Sequence[AuditedImage], side_B: Sequence[AuditedImage]) -> Iterator[Finding]:
    """Pairs whose images have different sizes, so that crops of them show different places."""
    if not side_A or not side_B:
        return
    of = {image.file: image for image in [*side_A, *side_B] if isinstance(image.metadata, ImageMetadata)}
    pairs, _ = match_names([image.file for image in side_A], [image.file for image in side_B])
    for a, b in pairs:
        if a in of and b in of and of[a].size != of[b].size:
            (w, h), (v, g) = of[a].size, of[b].size
            yield Finding("pair sizes", of[a].name, f"{w}x{h} pixels, and {of[b].name} has {v}x{g}", of[a], of[b])


def _duplicates(images: list[AuditedImage]) -> Iterator[Finding]:
    """Images with the same pixels, each reported once, with the first one that it equals."""
    groups: dict[str, list[AuditedImage]] = {}
    for image in images:
        if isinstance(image.metadata, ImageMetadata) and not image.metadata.constant:
            groups.setdefault(image.metadata.pixels, []).append(image)
    for group in groups.values():
        firsts: dict[str, AuditedImage] = {}
        for image in group:
            domain = image.domain
            same_side = next((first for first in firsts.values() if first.side == image.side), None)
            if domain in firsts:
                yield _duplicate("duplicate", image, firsts[domain])
            elif same_side is not None:
                yield _duplicate("train and test", image, same_side)
            elif firsts:
                yield _duplicate("A and B", image, next(iter(firsts.values())))
            firsts.setdefault(domain, image)


def _duplicate(kind: str, image: AuditedImage, like: AuditedImage) -> Finding:
    assert isinstance(image.metadata, ImageMetadata) and isinstance(like.metadata, ImageMetadata)
    what = "file" if image.metadata.content == like.metadata.content else "pixels"
    return Finding(kind, image.name, f"the same {what} as {like.name}", image, like)


def _near_duplicates(kind: str, images: Sequence[AuditedImage], others: Sequence[AuditedImage]) -> Iterator[Finding]:
    """Images and the nearest of the others, if one is near; exact duplicates are reported elsewhere."""
    sides = [
        [
            (image, image.metadata)
            for image in side
            if isinstance(image.metadata, ImageMetadata) and not image.metadata.constant
        ]
        for side in (images, others)
    ]
    hashes = [np.array([metadata.perceptual_hash for _, metadata in side], np.uint64) for side in sides]
    which, differing = nearest(hashes[0], hashes[1])
    for (image, metadata), index, bits in zip(sides[0], which.tolist(), differing.tolist(), strict=True):
        if index >= 0 and sides[1][index][1].pixels != metadata.pixels:
            like = sides[1][index][0]
            yield Finding(kind, image.name, f"looks like {like.name} ({bits} of 63 bits differ)", image, like)
