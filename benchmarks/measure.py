"""Measures the step on this machine, all cases taking turns, and writes <out>/<device>.md and .json.

python -m benchmarks.measure --out docs/results
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import subprocess
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_step import DEVICE, REFERENCE, WORK, Workload, build_cases
from benchmarks.harness import interleave, table
from cyclegan_fast import ops
from cyclegan_fast.monitoring.machine import machine_facts

ROUNDS = 20


class OutOfTimeError(Exception):
    """A case took longer to set up than there is time for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=400, help="time for everything")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    workloads = [WORK, Workload(batch=8)] if DEVICE.type == "cuda" else [WORK]
    results = []
    for i, work in enumerate(workloads):
        share = (deadline - time.monotonic()) / (len(workloads) - i)
        results.append(measure(work, share))
        write(arguments.out, results)  # what is measured is kept, whatever happens next


def measure(work: Workload, seconds: float) -> dict[str, Any]:
    """Sets every case up within the time there is, then times them in turn."""
    began, cases, left_out = time.monotonic(), {}, {}
    for name, setup in build_cases(work, DEVICE).items():
        remaining = 0.8 * seconds - (time.monotonic() - began)
        try:
            cases[name] = within(remaining, setup)
        except (OutOfTimeError, RuntimeError) as error:
            left_out[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            print(f"left out: {name}: {left_out[name]}", flush=True)
    times = interleave(cases, rounds=ROUNDS, device=DEVICE)
    baseline = REFERENCE if REFERENCE in times else next(iter(times))
    text = table(times, baseline)
    print(text, flush=True)
    return {
        "workload": vars(work),
        "table": text,
        "median_ms": {name: statistics.median(values) for name, values in times.items()},
        "all_ms": times,
        "left_out": left_out,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None,
    }


def within(seconds: float, action: Any) -> Any:
    """Calls `action`, which is interrupted once the time is over."""

    def on_alarm(*_: object) -> None:
        raise OutOfTimeError("not ready in time")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        return action()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def write(out: Path, results: list[dict[str, Any]]) -> None:
    """The page that people read and the numbers behind it."""
    facts = machine_facts()
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    out.mkdir(parents=True, exist_ok=True)
    record = {"date": date.today().isoformat(), "commit": commit(), "machine": facts, "step": results}
    (out / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        f"# {name}",
        "",
        f"{record['date']}, commit {record['commit']}. Written by `python -m benchmarks.measure`.",
        "",
    ]
    lines += [f"- {key}: {value}" for key, value in facts.items() if not isinstance(value, dict)]
    lines += [f"- extension: {ops.build_info()}", ""]
    for result in results:
        w = result["workload"]
        lines += [
            f"## Training step: batch {w['batch']}, {w['size']} px, {w['blocks']} blocks, {w['channels']} channels",
            "",
            f"Median of {ROUNDS} steps, the cases taking turns in one process.",
            "",
            result["table"],
            "",
        ]
        lines += [f"Left out: {case} ({why})" for case, why in result["left_out"].items()]
    (out / f"{stem}.md").write_text("\n".join(lines).rstrip() + "\n")


def commit() -> str:
    """The commit that was measured."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
