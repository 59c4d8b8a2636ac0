"""What a bulk translation has done: files of JSON lines in the output, which the next start reads.

Each process that records (a rank of torchrun, or the one that drives Ray) writes files of its own, so that nobody waits
for anybody: ``OUTPUT/.cyclegan_fast/translation/rank-0-of-2-<start>.jsonl``. The first line holds the settings that
shape results; each further one what became of a block. What is recorded and still there is not done again.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from datetime import UTC, datetime
from typing import Any

from cyclegan_fast.documents import DocumentError, check, parse_json, shown
from cyclegan_fast.engine.translation.bulk.blocks import BlockResult
from cyclegan_fast.engine.translation.bulk.storage import LocalStorage, Storage
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.find import OWN_FOLDER

log = logging.getLogger(__name__)

FOLDER = f"{OWN_FOLDER}/translation"

_VERSION = 1
_START = re.compile(r"\d{8}T\d{6}[.-].*")  # by the second alone, in what older versions wrote
_MAX_LINE = 2**26  # bytes; a block of 100,000 names has 10 MB
_FLUSH_SECONDS = 30.0  # between two objects, where nothing can be appended to a file
_HEADER = {"version": int, "settings": {str: object}}
_RECORD = {"done": [str], "faults": {str: str}}


class Manifest:
    """The record of a bulk translation.

    Args:
        output: Where the results go.
        settings: What shapes results: they may not be mixed with those of others.
        writer: Of the files that this process writes, the beginning of their names.
    """

    def __init__(self, output: Storage, settings: dict[str, Any], writer: str) -> None:
        self._output, self._settings = output, settings
        start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")  # to the microsecond: the last writer counts
        self._name = f"{FOLDER}/{writer}-{start}-{secrets.token_hex(3)}"
        self.faults: dict[str, dict[str, str]] = {}
        """Images without a result, and why, by the name of the tar shard that has the others' results."""
        self._lines: list[bytes] = []
        self._count, self._flushed = 0, float("-inf")

    def load(self, *, overwrite: bool = False) -> set[str] | None:
        """Returns the names of the results that are recorded; None if no bulk translation has written there.

        Args:
            overwrite: Start anew: forget what others settings made, and take nothing as done.

        Raises:
            UserError: There are results of other settings.
        """
        done: set[str] = set()
        names = [name for name in self._output.list_names(FOLDER) if name.endswith(".jsonl")]
        names.sort(key=_begun)
        for name in names:
            try:
                settings, records = self._parse(name)
            except FileNotFoundError:  # another rank, which starts anew as well, has removed it
                continue
            if settings is None:
                continue
            if settings != json.loads(json.dumps(self._settings)):
                if not overwrite:
                    raise UserError(_other_settings(self._output, settings, self._settings))
                self._output.remove(name)
                continue
            for record in records:
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
        header = _line({"version": _VERSION, "settings": self._settings})
        if isinstance(self._output, LocalStorage):
            self._output.append(f"{self._name}.jsonl", b"".join([*[header][self._count :], *self._lines]))
            self._count = 1
        else:
            self._output.write(f"{self._name}-{self._count:06d}.jsonl", b"".join([header, *self._lines]))
            self._count += 1
        self._lines, self._flushed = [], time.monotonic()

    def _parse(self, name: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """The settings and the records of a file; a line that a crash cut off, or that is none, is passed over."""
        settings, records = None, []
        for number, line in enumerate(self._output.read(name).splitlines(), 1):
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
        return settings, records


def _begun(name: str) -> str:
    """When the writer of a file began, and which of its files this is: what follows the writer's name."""
    found = _START.search(name)
    return found[0] if found else name


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _other_settings(output: Storage, before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in now if before.get(name) != json.loads(json.dumps(now[name]))]
    first = names[0] if names else "settings"
    values = f" ({first} {shown(before.get(first))}, and now {shown(now.get(first))})"
    return (
        f"{output} holds results that were made with another {', '.join(names) or 'version'}{values}: choose another "
        "output, or replace them with --overwrite"
    )
