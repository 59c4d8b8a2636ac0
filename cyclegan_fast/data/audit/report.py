"""The audit of a data set before training: what there is, and what is unusual or wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data.audit.findings import AuditedImage, Finding, Severity, find_all, sorted_findings
from cyclegan_fast.data.audit.groups import Group, Groups, list_groups
from cyclegan_fast.data.catalog.manifest import Manifest, name_in
from cyclegan_fast.data.catalog.quarantine import FILE_NAME as QUARANTINE
from cyclegan_fast.data.catalog.quarantine import can_be_listed, read_quarantine
from cyclegan_fast.monitoring.progress import Progress


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit."""

    title: str
    """The folder, or the locations."""
    catalog_folders: dict[str, Path]
    """The folder of each domain that keeps the manifest and the quarantine list."""
    domains: dict[str, list[AuditedImage]]
    """Every image that was read, by domain; domains that are absent or cannot be used are left out."""
    absent: list[str]
    """Domains that need not be there, and are not."""
    quarantined: dict[str, int]
    """Images of each domain that the quarantine list names."""
    findings: list[Finding]
    """The worst first."""
    files_read: int
    """Of the images, those that were read; the metadata of the others was in the manifest."""
    seconds: float

    def of(self, severity: Severity) -> list[Finding]:
        """Returns the findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def to_quarantine(self) -> dict[Path, dict[str, str]]:
        """Returns the files with errors that a quarantine list can name.

        Those of a domain that would be empty without them are not among them.

        Returns:
            For each catalog folder: path within it -> reason.
        """
        wrong = {f.image.file: f for f in self.findings if f.severity == "error" and f.image is not None}
        named: dict[Path, dict[str, str]] = {}
        for domain, images in self.domains.items():
            bad = [image.file for image in images if image.file in wrong]
            if bad and len(bad) < len(images):
                folder = self.catalog_folders[domain]
                reasons = {name_in(folder, file.whole): wrong[file].reason for file in bad}
                named.setdefault(folder, {}).update(
                    {name: reason for name, reason in reasons.items() if can_be_listed(name)}
                )
        return {folder: reasons for folder, reasons in named.items() if reasons}

    def is_named(self, finding: Finding, named: Mapping[Path, Mapping[str, str]]) -> bool:
        """Whether the image of a finding is among those that `to_quarantine` has named."""
        if finding.image is None:
            return False
        folder = self.catalog_folders[finding.image.domain]
        return name_in(folder, finding.image.file.whole) in named.get(folder, {})

    @property
    def summary(self) -> str:
        """One line: how much there is, and how much of it is wrong."""
        images = sum(len(domain) for domain in self.domains.values())
        counts = Counter(finding.severity for finding in self.findings)
        wrong = [count(counts[s], s) for s in ("error", "warning") if counts[s]]
        return f"{count(images, 'image')}, {' and '.join(wrong) or 'nothing wrong'}"


def audit(config: DataConfig, *, channels: tuple[int, int] = (3, 3), progress: Progress | None = None) -> AuditReport:
    """Reads the images that `config` names and looks for what would disturb a training with it.

    Args:
        config: Where they are, the geometry of a sample, and the processes that read (`workers`).
        channels: Of the images of A and of B.
        progress: Takes how many of the files to read have been read, of each catalog folder.

    Raises:
        UserError: No such folder, a damaged quarantine list, or settings that fit no image.
    """
    began = time.monotonic()
    found = list_groups(config)
    domains: dict[str, list[AuditedImage]] = {}
    files_read = 0
    for folder in dict.fromkeys(group.catalog_folder for group in found.groups):
        groups = [group for group in found.groups if group.catalog_folder == folder]
        images, count_read = _probe(folder, groups, config, progress)
        domains |= images
        files_read += count_read
    findings = [*found.findings, *find_all(domains, config, channels)]
    if config.data is not None:
        findings += _stale_lines(config.data, found)
    return AuditReport(
        title=found.title,
        catalog_folders={group.name: group.catalog_folder for group in found.groups},
        domains={group.name: domains[group.name] for group in found.groups},
        absent=found.absent,
        quarantined={group.name: len(group.quarantined) for group in found.groups},
        findings=sorted_findings(findings),
        files_read=files_read,
        seconds=time.monotonic() - began,
    )


def count(number: int, noun: str) -> str:
    """Returns a number and its noun, such as ``1,200 images``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _probe(
    folder: Path, groups: list[Group], config: DataConfig, progress: Progress | None
) -> tuple[dict[str, list[AuditedImage]], int]:
    """Reads the groups of one catalog folder; also returns how many files were read."""
    manifest = Manifest(folder)
    files = [file for group in groups for file in group.used]
    try:
        metadata = iter(manifest.probe(files, workers=config.workers, progress=progress))
    except BaseException:
        manifest.save()  # what was read before Ctrl-C, say, need not be read again
        raise
    in_folder = config.data is not None
    manifest.save(forget_others=in_folder)
    domains: dict[str, list[AuditedImage]] = {}
    for group in groups:
        names = [name_in(folder, file) if in_folder else str(file) for file in group.used]
        domains[group.name] = [
            AuditedImage(name, group.name, file, next(metadata)) for name, file in zip(names, group.used, strict=True)
        ]
    return domains, manifest.files_read


def _stale_lines(folder: Path, found: Groups) -> Iterator[Finding]:
    """Lines of the folder's quarantine list that match no image."""
    matched = {name_in(folder, file) for group in found.groups for file in group.quarantined}
    unusable = tuple(f"{finding.name}/" for finding in found.findings if finding.kind == "folder")
    for name, line in read_quarantine(folder).items():
        if name not in matched and not name.startswith(unusable):  # of whose files nothing is known
            yield Finding("quarantine", name, f"line {line} of {QUARANTINE} matches no image")
