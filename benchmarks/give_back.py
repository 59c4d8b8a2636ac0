"""What a run on a GPU that is at hand for minutes gives back while it goes on: its log, its tests' reports, its tables.

The machine may end the run at any second, so that the folder is brought up to date every few seconds and after each
part. It stays within few files: everything under docs/ that was written goes into one archive, unpacked by
``tar -xzf results.tar.gz -C docs``; the tables that one looks at first lie beside it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

EVERY = 5.0  # seconds


@contextlib.contextmanager
def copied_to(out: Path, docs: Path, reports: Path) -> Iterator[None]:
    """Copies stdout and stderr, the reports and what has changed in `docs` to `out` until the block ends.

    Args:
        out: A folder; made where it is missing.
        docs: The folder of which the changes since now are archived: tables in docs/results, pages that show them.
        reports: A folder of files that are copied as they are: junit*.xml.
    """
    out.mkdir(parents=True, exist_ok=True)
    before = _stamps(docs)
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(EVERY):
            update(out, docs, reports, before)

    thread = threading.Thread(target=follow, name="give-back", daemon=True)
    thread.start()
    try:
        with _tee(out / "log.txt"):
            yield
    finally:
        ended.set()
        thread.join()
        update(out, docs, reports, before)


def update(out: Path, docs: Path, reports: Path, before: dict[Path, int]) -> None:
    """Brings `out` up to date, each file by a move, so that no end leaves half of one."""
    changed = [path for path, stamp in _stamps(docs).items() if before.get(path) != stamp]
    if changed:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for path in changed:
                archive.add(path, path.relative_to(docs))
        _replace(out / "results.tar.gz", buffer.getvalue())
    at_once = [path for path in changed if path.suffix == ".md" and path.parent.name == "results"]
    for path in [*_newest(at_once, 3), *_newest(sorted(reports.glob("junit*.xml")), 3)]:
        _replace(out / path.name, path.read_bytes())


@contextlib.contextmanager
def _tee(log: Path) -> Iterator[None]:
    """Writes stdout and stderr, also those of every process started meanwhile, to `log` as well."""
    with subprocess.Popen(["tee", "-a", log], stdin=subprocess.PIPE) as tee:
        assert tee.stdin is not None
        saved = os.dup(1), os.dup(2)
        os.dup2(tee.stdin.fileno(), 1)
        os.dup2(tee.stdin.fileno(), 2)
        tee.stdin.close()
        try:
            yield
        finally:
            for descriptor, kept in zip((1, 2), saved, strict=True):
                os.dup2(kept, descriptor)
                os.close(kept)


def _stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def _newest(paths: Sequence[Path], count: int) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns)[-count:]


def _replace(target: Path, content: bytes) -> None:
    if target.is_file() and target.read_bytes() == content:
        return
    partial = target.with_name(f".{target.name}")
    partial.write_bytes(content)
    shutil.move(partial, target)
