"""The report of an audit as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cyclegan_fast.data.audit.findings import KINDS, AuditedImage, Severity
from cyclegan_fast.data.audit.report import AuditReport, count
from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.data.catalog.quarantine import FILE_NAME as QUARANTINE

_MAX_LISTED: dict[Severity, int] = {"error": 20, "warning": 20, "info": 3}  # of a kind, in the text


def as_text(report: AuditReport) -> Iterator[tuple[str, str]]:
    """Yields the report line by line, each with a style: "title", "error", "warning", "info" or "" for plain text."""
    images = sum(len(domain) for domain in report.domains.values())
    if not images:
        how = "no image to read"
    elif report.files_read:
        how = (
            f"{count(images, 'image')}, {report.files_read:,} read in {report.seconds:.3g} s "
            f"({report.files_read / report.seconds:,.0f} images/s)"
        )
    else:
        how = f"{count(images, 'image')}, all in the manifest and unchanged ({report.seconds:.2g} s)"
    yield "title", f"{report.title}: {how}"
    for name, domain in report.domains.items():
        yield from _domain_text(name, domain)
    for name in report.absent:
        yield "", f"{name}: absent"
    if quarantined := sum(report.quarantined.values()):
        yield "", f"{count(quarantined, 'file')} left out: {QUARANTINE}"
    for kind, (severity, text) in KINDS.items():
        if found := [finding for finding in report.findings if finding.kind == kind]:
            yield "", ""
            yield severity, f"{severity}: {text} ({sum(finding.images for finding in found):,})"
            for finding in found[: _MAX_LISTED[severity]]:
                yield "", f"  {finding.name}: {finding.reason.removeprefix(f'{report.title}: ')}"
            if len(found) > _MAX_LISTED[severity]:
                yield "", f"  and {len(found) - _MAX_LISTED[severity]:,} more (--json lists all)"
    yield "", ""
    yield "title", report.summary


def as_json(report: AuditReport, **more: Any) -> str:
    """The report as JSON: every finding, the statistics of each domain, and `more`."""
    return json.dumps(
        {
            "data": report.title,
            "domains": {
                name: dataclasses.asdict(_statistics(images)) | {"left_out": report.quarantined[name]}
                for name, images in report.domains.items()
            },
            "findings": [
                {
                    "severity": finding.severity,
                    "kind": finding.kind,
                    "name": finding.name,
                    "reason": finding.reason,
                    "like": finding.like.name if finding.like else None,
                }
                for finding in report.findings
            ],
            "files_read": report.files_read,
            "seconds": round(report.seconds, 3),
            **more,
        },
        indent=1,
    )


@dataclass(frozen=True)
class _Statistics:
    """A domain in numbers."""

    files: int
    good: int
    sizes: int  # different ones
    smallest: tuple[int, int] | None  # width, height; by their product, as the next two
    median: tuple[int, int] | None
    largest: tuple[int, int] | None
    formats: dict[str, int]
    modes: dict[str, int]


def _statistics(images: Sequence[AuditedImage]) -> _Statistics:
    good = [image.metadata for image in images if isinstance(image.metadata, ImageMetadata)]
    sizes = sorted((metadata.size for metadata in good), key=lambda size: (size[0] * size[1], size))
    return _Statistics(
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
    statistics = _statistics(images)
    bad = f", {statistics.files - statistics.good:,} of them cannot be used" * (statistics.files > statistics.good)
    yield "title", f"{name}: {count(statistics.files, 'image')}{bad}"
    if statistics.smallest and statistics.median and statistics.largest:
        small, middle, large = (f"{w}x{h}" for w, h in (statistics.smallest, statistics.median, statistics.largest))
        span = (
            f"{small} to {large}, median {middle}, {statistics.sizes:,} sizes"
            if statistics.sizes > 1
            else f"all {small}"
        )
        yield "", f"  pixels   {span}"
        yield "", f"  formats  {_list_counts(statistics.formats)}"
        yield "", f"  modes    {_list_counts(statistics.modes)}"


def _list_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
