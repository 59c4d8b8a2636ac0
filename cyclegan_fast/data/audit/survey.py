"""The whole check of a data set: what is there, what is odd, as text or as JSON."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data.audit.checklist import Checklist, list_groups
from cyclegan_fast.data.audit.findings import KINDS, AuditedImage, Finding, Severity, judge, sorted_findings
from cyclegan_fast.data.catalog.manifest import Index, name_in
from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.data.catalog.quarantine import FILE_NAME as QUARANTINE
from cyclegan_fast.data.catalog.quarantine import read_quarantine
from cyclegan_fast.monitoring.progress import Progress

_LISTED: dict[Severity, int] = {"error": 20, "warning": 20, "info": 3}  # of a kind, in the text


@dataclass(frozen=True)
class Survey:
    """What a check found."""

    title: str
    """The folder, or the locations."""
    homes: dict[str, Path]
    """The folder of each domain that keeps what is known of its images."""
    domains: dict[str, list[AuditedImage]]
    """Every image that was checked, by domain; domains that are absent or cannot be used are left out."""
    absent: list[str]
    """Domains that need not be there, and are not."""
    left_out: dict[str, int]
    """Images of each domain that the quarantine list names."""
    findings: list[Finding]
    """The worst first."""
    files_read: int
    """Of the images, those that were read; the others were known."""
    seconds: float

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def to_leave_out(self) -> dict[Path, dict[str, str]]:
        """The files with errors and why, by home and name there; not those of a domain that would be empty without."""
        wrong = {f.image.source: f for f in self.findings if f.severity == "error" and f.image is not None}
        named: dict[Path, dict[str, str]] = {}
        for domain, images in self.domains.items():
            bad = [image.source for image in images if image.source in wrong]
            if bad and len(bad) < len(images):
                home = self.homes[domain]
                reasons = {name_in(home, source.whole): wrong[source].reason for source in bad}
                named[home] = named.get(home, {}) | reasons
        return named

    def is_named(self, finding: Finding, named: Mapping[Path, Mapping[str, str]]) -> bool:
        """Whether the image of a finding is among those that `to_leave_out` has named."""
        if finding.image is None:
            return False
        home = self.homes[finding.image.domain]
        return name_in(home, finding.image.source.whole) in named.get(home, {})

    @property
    def summary(self) -> str:
        """One line: how much there is, and how much of it is odd."""
        images = sum(len(domain) for domain in self.domains.values())
        counts = Counter(finding.severity for finding in self.findings)
        odd = [_count(counts[s], s) for s in ("error", "warning") if counts[s]]
        return f"{_count(images, 'image')}, {' and '.join(odd) or 'nothing wrong'}"


def survey(
    config: DataConfig,
    *,
    channels: tuple[int, int] = (3, 3),
    progress: Progress | None = None,
) -> Survey:
    """Checks the images that `config` names for training with it.

    Args:
        config: Where they are, the geometry of a sample, and the processes that read (`workers`).
        channels: Of the images of A and of B.
        progress: Takes how many of the files to read have been read, of each home.

    Raises:
        UserError: No such folder, a damaged quarantine list, or settings that fit no image.
    """
    began = time.monotonic()
    found = list_groups(config)
    domains: dict[str, list[AuditedImage]] = {}
    files_read = 0
    for home in dict.fromkeys(group.home for group in found.groups):
        groups = [group for group in found.groups if group.home == home]
        index = Index(home)
        sources = [source for group in groups for source in group.used]
        try:
            metadata = iter(index.survey(sources, workers=config.workers, progress=progress))
        except BaseException:
            index.save()  # what was read before Ctrl-C, say, need not be read again
            raise
        index.save(forget_others=config.data is not None)
        files_read += index.files_read
        for group in groups:
            names = [name_in(home, s) if config.data is not None else str(s) for s in group.used]
            domains[group.name] = [
                AuditedImage(name, group.name, source, next(metadata))
                for name, source in zip(names, group.used, strict=True)
            ]
    findings = [*found.findings, *judge(domains, config, channels)]
    if config.data is not None:
        findings += _stale_lines(config.data, found)
    return Survey(
        found.title,
        {group.name: group.home for group in found.groups},
        domains,
        found.absent,
        {group.name: len(group.left_out) for group in found.groups},
        sorted_findings(findings),
        files_read,
        time.monotonic() - began,
    )


def _stale_lines(folder: Path, found: Checklist) -> Iterator[Finding]:
    """Lines of the folder's quarantine list that match no image."""
    named = {name_in(folder, source) for group in found.groups for source in group.left_out}
    unusable = tuple(f"{finding.name}/" for finding in found.findings if finding.kind == "folder")
    for name, line in read_quarantine(folder).items():
        if name not in named and not name.startswith(unusable):  # of whose files nothing is known
            yield Finding("quarantine", name, f"line {line} of {QUARANTINE} matches no image")


def as_text(result: Survey) -> Iterator[tuple[str, str]]:
    """Yields the report line by line, each with a style: "title", "error", "warning", "info" or "" for plain text."""
    images = sum(len(domain) for domain in result.domains.values())
    if result.files_read:
        how = (
            f"{result.files_read:,} read in {result.seconds:.3g} s ({result.files_read / result.seconds:,.0f} images/s)"
        )
    else:
        how = f"all known and unchanged ({result.seconds:.2g} s)"
    yield "title", f"{result.title}: {_count(images, 'image')}, {how}"
    for name, domain in result.domains.items():
        yield from _domain_text(name, domain)
    for name in result.absent:
        yield "", f"{name}: absent"
    if left_out := sum(result.left_out.values()):
        yield "", f"{_count(left_out, 'file')} left out: {QUARANTINE}"
    for kind, (severity, words) in KINDS.items():
        if some := [finding for finding in result.findings if finding.kind == kind]:
            yield "", ""
            yield severity, f"{severity}: {words} ({len(some):,})"
            for finding in some[: _LISTED[severity]]:
                yield "", f"  {finding.name}: {finding.reason.removeprefix(f'{result.title}: ')}"
            if len(some) > _LISTED[severity]:
                yield "", f"  and {len(some) - _LISTED[severity]:,} more (--json lists all)"
    yield "", ""
    yield "title", result.summary


def as_json(result: Survey, **more: Any) -> str:
    """The report as JSON: every finding, the numbers of each domain, and `more`."""
    return json.dumps(
        {
            "data": result.title,
            "domains": {
                name: dataclasses.asdict(_numbers(images)) | {"left_out": result.left_out[name]}
                for name, images in result.domains.items()
            },
            "findings": [
                {
                    "severity": finding.severity,
                    "kind": finding.kind,
                    "name": finding.name,
                    "reason": finding.reason,
                    "like": finding.like.name if finding.like else None,
                }
                for finding in result.findings
            ],
            "files_read": result.files_read,
            "seconds": round(result.seconds, 3),
            **more,
        },
        indent=1,
    )


@dataclass(frozen=True)
class _Numbers:
    """A domain in numbers."""

    files: int
    good: int
    sizes: int  # different ones
    smallest: tuple[int, int] | None  # width, height; by their product, as the next two
    median: tuple[int, int] | None
    largest: tuple[int, int] | None
    formats: dict[str, int]
    modes: dict[str, int]


def _numbers(images: Sequence[AuditedImage]) -> _Numbers:
    good = [image.found for image in images if isinstance(image.found, ImageMetadata)]
    sizes = sorted((metadata.size for metadata in good), key=lambda size: (size[0] * size[1], size))
    return _Numbers(
        files=len(images),
        good=len(good),
        sizes=len(set(sizes)),
        smallest=sizes[0] if sizes else None,
        median=sizes[len(sizes) // 2] if sizes else None,
        largest=sizes[-1] if sizes else None,
        formats=dict(Counter(metadata.format for metadata in good).most_common()),
        modes=dict(Counter(f"{metadata.mode} {metadata.depth} bit" for metadata in good).most_common()),
    )


def _domain_text(name: str, images: Sequence[AuditedImage]) -> Iterator[tuple[str, str]]:
    numbers = _numbers(images)
    bad = f", {numbers.files - numbers.good:,} of them cannot be used" * (numbers.files > numbers.good)
    yield "title", f"{name}: {_count(numbers.files, 'image')}{bad}"
    if numbers.smallest and numbers.median and numbers.largest:
        small, middle, large = (f"{w}x{h}" for w, h in (numbers.smallest, numbers.median, numbers.largest))
        span = f"{small} to {large}, median {middle}, {numbers.sizes:,} sizes" if numbers.sizes > 1 else f"all {small}"
        yield "", f"  pixels   {span}"
        yield "", f"  formats  {_listed(numbers.formats)}"
        yield "", f"  modes    {_listed(numbers.modes)}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
