"""python -m tests.fuzz --minutes 30: damaged files for everything that reads files, in processes that may die of them.

Without --minutes it is the bounded run of the tests, always with the same files. Exits with 1 if there are finds, which
lie in --out: the bytes, and what they led to.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.run import store_find
from tests.fuzz.targets import TARGETS


class Result(NamedTuple):
    """What a run came to."""

    cases: Counter[str]
    """Files that were read, by target."""
    finds: dict[str, str]
    """What each find led to, by the name of its file."""


def fuzz(
    folder: Path,
    *,
    targets: Sequence[str] = tuple(TARGETS),
    examples: int,
    seconds: float | None = None,
    number: int | None = None,
) -> Result:
    """Tries the targets in a process of their own, and in a new one after each that died.

    Args:
        folder: For files and finds.
        targets: By name.
        examples: Files of each target, in each round.
        seconds: Rounds are repeated for so long; else there is one.
        number: The first seed; without one the files are always the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began, end = time.time(), None if seconds is None else time.monotonic() + seconds
    left, log = list(targets), folder / "log.jsonl"
    log.unlink(missing_ok=True)
    while left:
        command = [sys.executable, "-m", "tests.fuzz.run", str(folder), "--examples", str(examples), "--targets", *left]
        if end is not None:
            command += ["--seconds", str(max(end - time.monotonic(), 0.0))]
        if number is not None:
            command += ["--seed", str(number)]
        (folder / "case").unlink(missing_ok=True)  # of the process before, which may be another run's
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        died_on = _note_death(folder, done)
        if end is None:
            left = left[left.index(died_on) + 1 :]
        elif time.monotonic() >= end:
            break
        else:
            number = (number or 0) + 1_000_003  # not the same files again
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    cases = Counter[str]()
    for line in lines:
        if "cases" in line:
            cases[line["target"]] += line["cases"]
    stored = sorted((folder / "finds").glob("*.txt"))  # those of earlier runs, too, which may be fixed
    finds = {path.stem: path.read_text() for path in stored if path.stat().st_mtime >= began}
    return Result(cases, finds)


def _note_death(folder: Path, done: subprocess.CompletedProcess[str]) -> str:
    """Stores the file that was read last as a find; returns its target."""
    case = folder / "case"
    name, _, content = (case.read_bytes() if case.is_file() else b"").partition(b"\n")
    if not name:
        raise RuntimeError(f"no file was tried: {done.stderr}")
    how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"status {done.returncode}"
    store_find(folder / "finds", name.decode(), content, f"the process ended with {how}\n{done.stderr[-4000:]}")
    return name.decode()


def main(words: Sequence[str] | None = None) -> int:
    """Prints how many files of each kind were read, and the finds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, help="random files for so long")
    parser.add_argument("--examples", type=int, default=400, help="files of each kind in a round")
    parser.add_argument("--seed", type=int, help="of the first round; by default a random one, which is printed")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="folder of the finds")
    given = parser.parse_args(words)
    number = given.seed
    if given.minutes is not None and number is None:
        number = random.SystemRandom().randrange(2**31)
    seconds = None if given.minutes is None else 60.0 * given.minutes
    print(f"seed {number}, process {os.getpid()}", flush=True)
    result = fuzz(given.out, targets=given.targets, examples=given.examples, seconds=seconds, number=number)
    for name, count in sorted(result.cases.items()):
        print(f"{count:>9,} {name}")
    print(f"{result.cases.total():>9,} files in all, {len(result.finds)} finds in {given.out / 'finds'}")
    for name, text in result.finds.items():
        said = [line for line in text.split("\nFailing test case")[0].splitlines() if line and line[0] != " "]
        print(f"{name}: {said[-1][:200]}")
    return 1 if result.finds else 0


if __name__ == "__main__":
    sys.exit(main())
