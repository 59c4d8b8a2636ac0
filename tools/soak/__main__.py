"""make soak MINUTES=30: two processes live through it, many others are killed, and nothing may grow or break.

One of the two trains, infers, translates and exports in-process, cycle after cycle. The other, this one, starts
commands, ends them at random moments with SIGKILL or SIGTERM, resumes them, and reads every file that they leave. What
both hold is measured after each cycle; a rise beyond noise fails, and so does anything that is not whole.

Writes <out>/soak.json, soak.svg and soak.md, and exits with 1 on a failure.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclegan_fast.checkpoint.native import latest_checkpoint
from tools.soak.actions import Broken, Soak
from tools.soak.flatness import Trend, trend
from tools.soak.long_lived import held
from tools.soak.report import write_report

EXPORT_EVERY = 8  # cycles of the process that lives long
QUANTITIES = {
    "in-process": ("rss", "threads", "files", "children", "objects"),
    "supervisor": ("rss", "threads", "files"),
}
ROOT = Path(__file__).resolve().parents[2]


def soak(work: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Soaks for so long.

    Returns:
        ``cycles`` (a list of what was held after each, by process), ``counts`` (of what was done), ``failures``.
    """
    end, cycles, failures = time.monotonic() + seconds, list[dict[str, Any]](), list[str]()
    command = [sys.executable, "-m", "tools.soak.long_lived"]
    done = Soak(work, seed)
    with (
        (work / "long_lived.log").open("wb") as log,
        subprocess.Popen(
            [*command, str(done.data), str(work)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as living,
    ):
        assert living.stdin is not None and living.stdout is not None
        try:
            while time.monotonic() < end:
                checkpoint = latest_checkpoint(done.run)
                order = {
                    "cycle": len(cycles),
                    "run": None if checkpoint is None else str(done.run),
                    "export": len(cycles) % EXPORT_EVERY == 2,
                }
                print(json.dumps(order), file=living.stdin, flush=True)
                answer = living.stdout.readline()
                if not answer:
                    raise Broken(f"the long-lived process died: {(work / 'long_lived.log').read_text()[-2000:]}")
                action = done.act()
                gc.collect()
                cycles.append({"action": action, "in-process": json.loads(answer), "supervisor": held()})
                print(f"{len(cycles):4} {action:32} {answer.strip()}", flush=True)
        except Exception as error:  # whatever breaks is the result
            failures.append(f"{type(error).__name__}: {error}")
        living.stdin.close()
    if living.returncode != 0:
        failures.append(f"the long-lived process ended with {living.returncode}")
    return {"seed": seed, "seconds": seconds, "cycles": cycles, "counts": dict(done.counts), "failures": failures}


def trends(cycles: Sequence[dict[str, Any]]) -> dict[str, Trend]:
    """The trend of each quantity, by ``process quantity``."""
    return {
        f"{process} {name}": trend([cycle[process][name] for cycle in cycles])
        for process, names in QUANTITIES.items()
        for name in names
    }


def main(words: Sequence[str] | None = None) -> int:
    """Soaks, reports, and says whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, help="by default a random one, which is printed")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="folder of the report")
    given = parser.parse_args(words)
    seed = random.SystemRandom().randrange(2**31) if given.seed is None else given.seed
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="cyclegan_fast_soak_") as folder:
        result = soak(Path(folder), 60.0 * given.minutes, seed)
    try:
        found = trends(result["cycles"])
    except ValueError as error:
        found = {}
        result["failures"].append(str(error))
    rising = [name for name, line in found.items() if not line.is_flat]
    result["failures"] += [f"{name} rises: {found[name]}" for name in rising]
    if result["cycles"]:
        write_report(given.out, result, found)
    for failure in result["failures"]:
        print(f"FAILED: {failure}", file=sys.stderr)
    print(f"{len(result['cycles'])} cycles, {given.out / 'soak.md'}")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
