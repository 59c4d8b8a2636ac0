"""One process that tries damaged files; whoever started it learns of its death from the file that it read last.

    python -m tests.fuzz.run FOLDER --targets png tiff --examples 100 --seconds 60 --seed 1

FOLDER gets ``case`` (the name of the target and the bytes that are being read), ``log.jsonl`` (a line for each target
that was tried) and ``finds/``: the bytes that ended in anything but a value or a sentence, with the traceback.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import logging
import resource
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import Change, changed, changes
from tests.fuzz.targets import TARGETS, Target, check_refusal, is_refused

MAX_SECONDS = 20  # of this process's CPU time, for one file of at most a MiB
MAX_PEAK = 1536 * 2**20  # bytes that reading one may take: the largest image that is decoded is of 179 Mpx
_MAX_ADDRESSES = 4 * 2**30  # bytes beyond those of the process at its start, at which an allocation fails
_HANGS = 120  # seconds after which the process ends itself, with a traceback

_SETTINGS = settings(
    database=None,
    deadline=None,
    phases=[Phase.generate],  # a case of a few changes needs no shrinking
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)


class Fuzzer:
    """Tries files, each in a folder of its own, and notes the one that is being read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.finds = folder, folder / "finds"
        self.finds.mkdir(parents=True, exist_ok=True)
        self.case = (folder / "case").open("w+b", buffering=0)
        self.seeds: dict[str, Sequence[bytes]] = {}  # sound files, by target
        self.cases = 0

    def try_target(self, name: str, examples: int, *, number: int | None, until: float) -> int:
        """Reads so many changed files; returns how many finds there are, none or one.

        Args:
            name: Of the target.
            examples: How many files.
            number: The seed; without one the files are always the same.
            until: Value of time.monotonic() at which it stops.
        """
        target = TARGETS[name]
        if name not in self.seeds:
            self.seeds[name] = target.seeds()
        seeds = self.seeds[name]

        @settings(_SETTINGS, max_examples=examples, derandomize=number is None)
        @given(st.integers(0, len(seeds) - 1), changes())
        def one(which: int, wanted: list[Change]) -> None:
            if time.monotonic() < until:
                self.try_file(name, target, target.repair(changed(seeds, which, wanted)))

        try:
            for sound in seeds:
                assert not is_refused(refusal := self.read(name, target, sound)), f"sound, and refused: {refusal}"
            (one if number is None else seed(number)(one))()
        except Exception as error:  # whatever reading raised, but a UserError
            self.note_find(name, error)
            return 1
        return 0

    def try_file(self, name: str, target: Target, content: bytes) -> None:
        """Reads one file, in bounded time and memory."""
        self.cases += 1
        before, start = _reset_peak(), time.process_time()
        faulthandler.dump_traceback_later(_HANGS, exit=True)
        try:
            self.read(name, target, content)
        except ValueError as error:
            check_refusal(error)
        finally:
            faulthandler.cancel_dump_traceback_later()
        taken, seconds = _status("VmHWM") - before, time.process_time() - start
        assert taken <= MAX_PEAK, f"reading it took {taken / 2**20:.0f} MiB"
        assert seconds <= MAX_SECONDS, f"reading it took {seconds:.0f} s"

    def read(self, name: str, target: Target, content: bytes) -> object:
        """Notes the file that is being read, and reads it."""
        self.case.seek(0)
        self.case.write(name.encode() + b"\n" + content)
        self.case.truncate()
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            return target.read(content, Path(folder))

    def note_find(self, name: str, error: Exception) -> None:
        """Stores the file that was read last."""
        _, _, content = (self.folder / "case").read_bytes().partition(b"\n")
        store_find(self.finds, name, content, "".join(traceback.format_exception(error)))


def store_find(folder: Path, target: str, content: bytes, text: str) -> None:
    """Stores bytes and what they led to, under a name that tells finds apart."""
    path = folder / f"{target.replace(' ', '_')}-{hashlib.sha256(content).hexdigest()[:12]}"
    path.with_name(f"{path.name}.bin").write_bytes(content)
    path.with_name(f"{path.name}.txt").write_text(text)


def _status(field: str) -> int:
    """Bytes, of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def _reset_peak() -> int:
    """Begins to measure the peak of the memory anew; returns the bytes that are in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def main(words: Sequence[str] | None = None) -> None:
    """Tries the targets one after the other, again and again with --seconds, each time with further seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int)
    given_words = parser.parse_args(words)
    warnings.simplefilter("ignore")  # of decoders, about metadata
    logging.getLogger("cyclegan_fast").setLevel(logging.ERROR)
    limit = _status("VmSize") + _MAX_ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    fuzzer, number = Fuzzer(given_words.folder), given_words.seed
    until = time.monotonic() + (given_words.seconds or 10**6)
    with (fuzzer.folder / "log.jsonl").open("a", buffering=1) as log:
        while True:
            for name in given_words.targets:
                before = fuzzer.cases
                log.write(json.dumps({"begun": name}) + "\n")
                finds = fuzzer.try_target(name, given_words.examples, number=number, until=until)
                log.write(json.dumps({"target": name, "cases": fuzzer.cases - before, "finds": finds}) + "\n")
            if given_words.seconds is None or time.monotonic() >= until:
                return
            number = None if number is None else number + 1


if __name__ == "__main__":
    main()
