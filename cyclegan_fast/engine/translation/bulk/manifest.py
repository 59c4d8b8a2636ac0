"""What a bulk translation has done: files of JSON lines in the output, which the next start reads.

Each process that records (a rank of torchrun, or the one that drives Ray) writes files of its own, so that nobody waits
for anybody: ``OUTPUT/.cyclegan_fast/translation/rank-0-of-2-<start>.jsonl``. The first line holds the settings that
shape results; each further one what became of a block. What is recorded and still there is not done again.

An object of a store cannot be appended to. There a process replaces its file twice a minute by one of the next number
that has the new records, too; one of a megabyte stays, and the next begins. So the next start has few to read, however
long this one runs. Where nothing may be removed, each object has the new records alone, and all stay.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cyclegan_fast.documents import DocumentError, check, parse_json, shown
from cyclegan_fast.engine.translation.bulk.blocks import CONNECTIONS, BlockResult
from cyclegan_fast.engine.translation.bulk.storage import LocalStorage, Storage
from cyclegan_fast.errors import StorageError, UserError
from cyclegan_fast.images.find import OWN_FOLDER
from cyclegan_fast.logs import warn_once

log = logging.getLogger(__name__)

FOLDER = f"{OWN_FOLDER}/translation"

_VERSION = 1
_START = re.compile(r"\d{8}T\d{6}[.-].*")  # by the second alone, in what older versions wrote
_MAX_LINE = 2**26  # bytes; a block of 100,000 names has 10 MB
_FLUSH_SECONDS = 30.0  # between two writes of an object, where nothing can be appended to a file
_FULL = 2**20  # bytes of an object that is not replaced any more
_HEADER = {"version": int, "settings": {str: object}}
_RECORD = {"done": [str], "faults": {str: str}}


class _Content(NamedTuple):
    """What a file of the manifest holds."""

    name: str
    settings: dict[str, Any] | None
    """None where the file is not there any more, or has no such line."""
    records: list[dict[str, Any]]


class Manifest:
    """The record of a bulk translation.

    Args:
        output: Where the results go.
        settings: What shapes results: they may not be mixed with those of others.
        writer: Of the files that this process writes, the beginning of their names.
    """

    def __init__(self, output: Storage, settings: dict[str, Any], writer: str) -> None:
        self._output, self._settings = output, json.loads(json.dumps(settings))
        start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")  # to the microsecond: the last writer counts
        self._name = f"{FOLDER}/{writer}-{start}-{secrets.token_hex(3)}"
        self.faults: dict[str, dict[str, str]] = {}
        """Images without a result, and why, by the name of the tar shard that has the others' results."""
        self._header = _line({"version": _VERSION, "settings": settings})
        self._lines: list[bytes] = []  # not written yet
        self._object: list[bytes] = []  # the records in the object that the next write replaces
        self._append_only = False  # objects cannot be removed, so none is replaced
        self._count, self._flushed = 0, float("-inf")

    def load(self, *, overwrite: bool = False) -> set[str] | None:
        """Returns the names of the results that are recorded; None if no bulk translation has written there.

        Args:
            overwrite: Start anew: forget what others settings made, and take nothing as done.

        Raises:
            UserError: There are results of other settings.
        """
        done: set[str] = set()
        names = sorted((name for name in self._output.list_names(FOLDER) if name.endswith(".jsonl")), key=_begun)
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="cyclegan_fast.manifest") as pool:
            for file in pool.map(self._parse, names):
                if file.settings is None:
                    continue
                if file.settings != self._settings:
                    if not overwrite:
                        raise UserError(_other_settings(self._output, file.settings, self._settings))
                    self._output.remove(file.name)
                    continue
                for record in file.records:
                    done.update(record["done"])
                    self.faults.update(dict.fromkeys(record["done"][:1], record["faults"]))  # a later one without, too
        if overwrite:
            return set()
        return done if names else None

    def open(self) -> None:
        """Writes the settings, by which others know what the results are."""
        self._flush()

    def add(self, result: BlockResult) -> None:
        """Records a block."""
        record = {
            "done": result.written,
            "faults": {outcome.source: outcome.fault for outcome in result.outcomes if outcome.fault},
            "seconds": round(result.seconds, 3),
        }
        self._lines.append(_line(record))
        if isinstance(self._output, LocalStorage) or time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self._flush()

    def close(self) -> None:
        """Writes what is not written yet."""
        if self._lines:
            self._flush()

    def _flush(self) -> None:
        if isinstance(self._output, LocalStorage):
            self._output.append(f"{self._name}.jsonl", b"".join([*[self._header][self._count :], *self._lines]))
        else:
            self._write_object()
        self._count += 1
        self._lines, self._flushed = [], time.monotonic()

    def _write_object(self) -> None:
        """Writes the next object, and then removes the one that it replaces: a kill between the two loses nothing."""
        is_full = self._append_only or sum(map(len, self._object)) >= _FULL
        records = self._lines if is_full else self._object + self._lines
        self._output.write(self._object_name(self._count), b"".join([self._header, *records]))
        if self._count and not is_full:
            try:
                self._output.remove(self._object_name(self._count - 1))
            except StorageError as error:
                self._append_only = isinstance(error.__cause__, PermissionError)  # else it was a request that failed
                warn_once(log, f"{self._output}/{FOLDER}: files that newer ones replace cannot be removed, and stay")
        self._object = records

    def _object_name(self, count: int) -> str:
        return f"{self._name}-{count:06d}.jsonl"

    def _parse(self, name: str) -> _Content:
        """Reads a file; a line that a crash cut off, or that is none, is passed over."""
        settings, records = None, []
        try:
            lines = self._output.read(name).splitlines()
        except FileNotFoundError:  # its writer has replaced it, or another rank, which starts anew as well, removed it
            return _Content(name, None, [])
        for number, line in enumerate(lines, 1):
            try:
                value = parse_json(line, _MAX_LINE)
                check(value, _RECORD if settings is not None else _HEADER)
            except DocumentError as error:
                log.warning("%s/%s, line %d: %s; passed over", self._output, name, number, error)
                continue
            if settings is None:
                settings = value["settings"]
            else:
                records.append(value)
        return _Content(name, settings, records)


def _begun(name: str) -> str:
    """When the writer of a file began, and which of its files this is: what follows the writer's name."""
    found = _START.search(name)
    return found[0] if found else name


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _other_settings(output: Storage, before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in now if before.get(name) != now[name]]
    first = names[0] if names else "settings"
    values = f" ({first} {shown(before.get(first))}, and now {shown(now.get(first))})"
    return (
        f"{output} holds results that were made with another {', '.join(names) or 'version'}{values}: choose another "
        "output, or replace them with --overwrite"
    )
