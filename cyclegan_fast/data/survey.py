"""The whole check of a data folder: what is there, what is odd, as text or as JSON."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data.findings import KINDS, Finding, Picture, Severity, judge, sorted_findings
from cyclegan_fast.data.folder import DOMAIN_FOLDERS, index_domain
from cyclegan_fast.data.index import Index, Progress, name_in
from cyclegan_fast.data.inspection import Facts
from cyclegan_fast.data.quarantine import FILE_NAME as QUARANTINE
from cyclegan_fast.data.quarantine import leave_out, read_quarantine
from cyclegan_fast.data.sources import Source, as_source
from cyclegan_fast.errors import UserError

_LISTED: dict[Severity, int] = {"error": 20, "warning": 20, "info": 3}  # of a kind, in the text


@dataclass(frozen=True)
class Survey:
    """What a check found."""

    folder: Path
    domains: dict[str, list[Picture]]
    """Every picture that was checked, by folder; folders that are absent or cannot be used are left out."""
    left_out: dict[str, int]
    """Pictures of each folder that the quarantine list names."""
    findings: list[Finding]
    """The worst first."""
    files_read: int
    """Of the pictures, those that were read; the others were known."""
    seconds: float

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def to_leave_out(self) -> dict[str, str]:
        """The files with errors and why, by name; not those of a folder that would be empty without them."""
        wrong = {f.name: f for f in self.findings if f.severity == "error" and f.picture is not None}
        empty = {name for name, pictures in self.domains.items() if all(p.name in wrong for p in pictures)}
        return {name: f.reason for name, f in wrong.items() if f.picture and f.picture.domain not in empty}

    @property
    def summary(self) -> str:
        """One line: how much there is, and how much of it is odd."""
        pictures = sum(len(domain) for domain in self.domains.values())
        counts = Counter(finding.severity for finding in self.findings)
        odd = [_count(counts[s], s) for s in ("error", "warning") if counts[s]]
        return f"{_count(pictures, 'picture')}, {' and '.join(odd) or 'nothing wrong'}"


def survey(config: DataConfig, *, progress: Progress | None = None, say: Callable[[str], None] = print) -> Survey:
    """Checks the folder `config.data` for training with `config`.

    Args:
        config: The folder, the geometry of a sample, and the processes that read (`workers`).
        progress: Is told how many of the files to read have been read.
        say: Takes a word about an index that cannot be read or written.

    Raises:
        UserError: No such folder, a damaged quarantine list, or settings that fit no picture.
    """
    began, folder = time.monotonic(), config.data
    if folder is None or not folder.is_dir():
        raise UserError(f"{folder}: there is no such data folder; it should hold the folders trainA and trainB")
    quarantined = read_quarantine(folder)
    files, left_out, findings = _list_files(folder)

    index = Index(folder, say)
    sources = [source for domain in files.values() for source in domain]
    try:
        found = index.survey(sources, workers=config.workers, progress=progress)
    except BaseException:
        index.save()  # what was read before Ctrl-C, say, need not be read again
        raise
    index.save(forget_others=True)

    facts = iter(found)
    domains = {
        name: [Picture(name_in(folder, source), name, source, next(facts)) for source in domain]
        for name, domain in files.items()
    }
    named = {name_in(folder, s) for domain in left_out.values() for s in domain}
    unusable = tuple(f"{finding.name}/" for finding in findings)  # of whose files nothing is known
    findings += [
        Finding("quarantine", name, f"line {line} of {QUARANTINE} matches no picture")
        for name, line in quarantined.items()
        if name not in named and not name.startswith(unusable)
    ]
    findings += judge(domains, config)
    return Survey(
        folder,
        domains,
        {name: len(domain) for name, domain in left_out.items()},
        sorted_findings(findings),
        index.files_read,
        time.monotonic() - began,
    )


def _list_files(folder: Path) -> tuple[dict[str, list[Source]], dict[str, list[Source]], list[Finding]]:
    """The pictures of each domain, those that the quarantine list names, and the folders that cannot be used."""
    files: dict[str, list[Source]] = {}
    left_out: dict[str, list[Source]] = {}
    findings = []
    for name in DOMAIN_FOLDERS:
        if not name.startswith("train") and not (folder / name).exists():
            continue
        try:
            sources = [as_source(path) for path in index_domain(folder, name)]
            files[name], left_out[name] = leave_out(sources, folder)
        except UserError as error:
            findings.append(Finding("folder", name, str(error)))
    for split in ("train", "test"):
        names = f"{split}A", f"{split}B"
        if all(name in files for name in names) and (folder / names[0]).samefile(folder / names[1]):
            reason = f"{names[0]} and {names[1]} are the same folder; each domain needs its own images"
            findings.append(Finding("folder", names[1], reason))
    return files, left_out, findings


def as_text(result: Survey) -> Iterator[tuple[str, str]]:
    """Yields the report line by line, each with a style: "title", "error", "warning", "info" or "" for plain text."""
    pictures = sum(len(domain) for domain in result.domains.values())
    if result.files_read:
        how = (
            f"{result.files_read:,} read in {result.seconds:.3g} s ({result.files_read / result.seconds:,.0f} images/s)"
        )
    else:
        how = f"all known and unchanged ({result.seconds:.2g} s)"
    yield "title", f"{result.folder}: {_count(pictures, 'picture')}, {how}"
    for name in DOMAIN_FOLDERS:
        if name in result.domains:
            yield from _domain_text(name, result.domains[name])
        elif not any(f.kind == "folder" and f.name == name for f in result.findings):
            yield "", f"{name}: absent"
    if left_out := sum(result.left_out.values()):
        yield "", f"{_count(left_out, 'file')} left out: {QUARANTINE}"
    for kind, (severity, words) in KINDS.items():
        if some := [finding for finding in result.findings if finding.kind == kind]:
            yield "", ""
            yield severity, f"{severity}: {words} ({len(some):,})"
            for finding in some[: _LISTED[severity]]:
                yield "", f"  {finding.name}: {finding.reason.removeprefix(f'{result.folder}: ')}"
            if len(some) > _LISTED[severity]:
                yield "", f"  and {len(some) - _LISTED[severity]:,} more (--json lists all)"
    yield "", ""
    yield "title", result.summary


def as_json(result: Survey, **more: Any) -> str:
    """The report as JSON: every finding, the numbers of each domain, and `more`."""
    return json.dumps(
        {
            "data": str(result.folder),
            "domains": {
                name: dataclasses.asdict(_numbers(pictures)) | {"left_out": result.left_out[name]}
                for name, pictures in result.domains.items()
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


def _numbers(pictures: Sequence[Picture]) -> _Numbers:
    good = [picture.found for picture in pictures if isinstance(picture.found, Facts)]
    sizes = sorted((facts.size for facts in good), key=lambda size: (size[0] * size[1], size))
    return _Numbers(
        files=len(pictures),
        good=len(good),
        sizes=len(set(sizes)),
        smallest=sizes[0] if sizes else None,
        median=sizes[len(sizes) // 2] if sizes else None,
        largest=sizes[-1] if sizes else None,
        formats=dict(Counter(facts.format for facts in good).most_common()),
        modes=dict(Counter(f"{facts.mode} {facts.depth} bit" for facts in good).most_common()),
    )


def _domain_text(name: str, pictures: Sequence[Picture]) -> Iterator[tuple[str, str]]:
    numbers = _numbers(pictures)
    bad = f", {numbers.files - numbers.good:,} of them cannot be used" * (numbers.files > numbers.good)
    yield "title", f"{name}: {_count(numbers.files, 'picture')}{bad}"
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
