"""Measures the step, the operators and the loaders on this machine, and writes <out>/<device>.md and .json.

python -m benchmarks.measure --out docs/results
python -m benchmarks.measure --out docs/results --only operators      (or step, ladder, data, infer)

On a GPU <out>/<device>-kernels.md tells where the time of a step's graph goes, kernel by kernel. The tables of
the loaders also go into the docs/data.md beside it, and those of the engines into docs/engines.md, between two markers.

What is compared takes turns in one process. What is not measured in a run stays as it was measured before.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_data import data_page, measure_data
from benchmarks.bench_infer import measure_infer, size_page
from benchmarks.bench_step import (
    DEVICE,
    LADDER,
    OURS_ON_CUDA,
    REFERENCE,
    WORK,
    Prepared,
    Workload,
    build_cases,
    build_ladder,
)
from benchmarks.harness import Sweep, interleave, ratio, table, time_once
from benchmarks.kernels import idle_share, kernel_page, trace
from benchmarks.op_cases import OpCase, cases
from cyclegan_fast import ops
from cyclegan_fast.monitoring.machine import machine_facts

ROUNDS = 20
BEGIN, END = "<!-- measured -->", "<!-- end -->"  # in docs/data.md and docs/engines.md
WORKLOADS = [WORK]
if DEVICE.type == "cuda":
    WORKLOADS += [Workload(batch=8), Workload(batch=16), Workload(identity=False), Workload(size=512)]
else:
    WORKLOADS += [Workload()]  # the case of record


Builder = Callable[[Workload, torch.device], dict[str, Callable[[], Prepared]]]


class OutOfTimeError(Exception):
    """A case took longer to set up than there is time for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=800, help="time for everything")
    parser.add_argument("--only", choices=["operators", "step", "ladder", "data", "infer"], help="measure this alone")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    results = read(arguments.out)
    if arguments.only in (None, "operators"):
        share = arguments.seconds if arguments.only else 0.5 * arguments.seconds
        results["operators"] = stamped(measure_operators(time.monotonic() + share))
        write(arguments.out, results)  # what is measured is kept, whatever happens next
    if arguments.only in (None, "ladder"):
        share = 1.0 if arguments.only else 0.3
        results["ladder"] = stamped([measure(WORK, build_ladder, share * (deadline - time.monotonic()))])
        write(arguments.out, results)
    if arguments.only in (None, "data"):
        share = 1.0 if arguments.only else 0.3
        results["data"] = stamped([measure_data(share * (deadline - time.monotonic()))])
        write(arguments.out, results)
        write_doc(arguments.out, "data.md", "data", data_page)
    if arguments.only in (None, "infer"):
        share = 1.0 if arguments.only else 0.4

        def keep(rows: list[dict[str, Any]]) -> None:
            results["infer"] = stamped(rows)
            write(arguments.out, results)
            write_doc(arguments.out, "engines.md", "infer", infer_page)

        measure_infer(share * (deadline - time.monotonic()), keep)
    if arguments.only in (None, "step"):
        steps: list[dict[str, Any]] = []
        for i, work in enumerate(WORKLOADS):
            steps.append(measure(work, build_cases, (deadline - time.monotonic()) / (len(WORKLOADS) - i)))
            results["step"] = stamped(steps)
            write(arguments.out, results)


def measure_operators(deadline: float) -> list[dict[str, Any]]:
    """Every operator beside its peers and a copy of as many bytes, as long as there is time."""
    makers, rows = list(cases()), []
    for i, maker in enumerate(makers):
        if time.monotonic() > deadline:
            print(f"out of time: {len(makers) - i} of {len(makers)} cases are left out", flush=True)
            break
        rows.append(measure_operator(maker()))
        print(operator_row(rows[-1]), flush=True)
    return rows


def measure_operator(case: OpCase) -> dict[str, Any]:
    """Microseconds a call of each way, after their results were checked."""
    for way in case.ways:
        case.check(way)
    half = case.bytes_moved // 2
    sources, targets = ([torch.ones(half, dtype=torch.uint8, device=DEVICE) for _ in range(case.sets)] for _ in "ab")
    calls = {way: [make(i) for i in range(case.sets)] for way, make in case.ways.items()}
    calls["copy"] = [functools.partial(b.copy_, a) for a, b in zip(sources, targets, strict=True)]
    sweeps = {way: Sweep(list_of_calls, DEVICE) for way, list_of_calls in calls.items()}
    times = interleave(sweeps, rounds=ROUNDS, device=DEVICE, warm_up=1)
    peers = {way: 1 / ratio(times, "ours", way) for way in case.ways if way != "ours"}
    return {
        "op": case.op,
        "what": case.what,
        "bytes": case.bytes_moved,
        "us": {way: 1e3 * statistics.median(values) / case.sets for way, values in times.items()},
        "copy_share": ratio(times, "copy", "ours"),
        "times_faster": peers,
    }


def operator_row(row: dict[str, Any]) -> str:
    us, faster = row["us"]["ours"], row["times_faster"]
    cells = [row["op"], row["what"], f"{us:.1f}", f"{row['bytes'] / us / 1e3:.1f}", f"{100 * row['copy_share']:.0f} %"]
    cells += [f"{faster[peer]:.2f}" if peer in faster else "" for peer in ("aten", "compiled")]
    return "| " + " | ".join(cells) + " |"


def measure(work: Workload, build: Builder, seconds: float) -> dict[str, Any]:
    """Sets every case up within the time there is, times them in turn, and looks at the kernels of each."""
    print(work, flush=True)
    began, left_out = time.monotonic(), {}
    cases: dict[str, Prepared] = {}
    peak_gib: dict[str, float] = {}
    for name, setup in build(work, DEVICE).items():
        held = torch.cuda.memory_allocated() / 2**30 if DEVICE.type == "cuda" else 0.0
        remaining = 0.8 * seconds - (time.monotonic() - began)
        try:
            cases[name] = within(remaining, setup)
        except (OutOfTimeError, RuntimeError) as error:
            left_out[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            print(f"left out: {name}: {left_out[name]}", flush=True)
            continue
        if (peak := cases[name].peak_gib) is not None:
            peak_gib[name] = peak - held
    calls = {name: case.run for name, case in cases.items()}
    a_round = sum(time_once(call, DEVICE) for call in calls.values()) / 1e3
    left = seconds - (time.monotonic() - began)
    rounds = max(3, min(ROUNDS, int(left / max(a_round, 1e-6))))
    times = interleave(calls, rounds=rounds, device=DEVICE, warm_up=0)
    kernels = {name: trace(case.run) for name, case in cases.items()} if DEVICE.type == "cuda" else {}
    columns = {
        "peak GiB": {name: f"{peak:.2f}" for name, peak in peak_gib.items()},
        "kernels": {name: str(len(found)) for name, found in kernels.items()},
        "idle": {name: f"{100 * idle_share(found):.1f} %" for name, found in kernels.items()},
        "predicted ms": {rung.name: rung.predicted for rung in LADDER} if build is build_ladder else {},
    }
    if DEVICE.type != "cuda" or work != WORK:  # what the predictions are for
        del columns["predicted ms"]
    text = table(times, REFERENCE if REFERENCE in times else next(iter(times)), {k: v for k, v in columns.items() if v})
    print(text, flush=True)
    return {
        "workload": vars(work),
        "title": str(work),
        "rounds": rounds,
        "table": text,
        "median_ms": {name: statistics.median(values) for name, values in times.items()},
        "all_ms": times,
        "left_out": left_out,
        "peak_gib": peak_gib,
        "kernel_count": {name: len(found) for name, found in kernels.items()},
        "idle_share": {name: idle_share(found) for name, found in kernels.items()},
        "kernel_page": kernel_page(kernels[OURS_ON_CUDA], str(work)) if OURS_ON_CUDA in kernels else [],
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


def stamped(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Results with when, where and of which commit they are."""
    return {
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": machine_facts(),
        "extension": ops.build_info(),
        "threads": torch.get_num_threads(),
        "results": results,
    }


def device_name() -> str:
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"


def path_of(out: Path, suffix: str) -> Path:
    return out / (re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-") + suffix)


def read(out: Path) -> dict[str, Any]:
    """What was measured before on such a device."""
    path = path_of(out, ".json")
    return json.loads(path.read_text()) if path.exists() else {}


def write(out: Path, results: dict[str, Any]) -> None:
    """The page that people read and the numbers behind it."""
    out.mkdir(parents=True, exist_ok=True)
    path_of(out, ".json").write_text(json.dumps(results, indent=1) + "\n")
    lines = [f"# {device_name()}", "", "Written by `python -m benchmarks.measure`.", ""]
    if "operators" in results:
        lines += operators_page(results["operators"])
    if "ladder" in results:
        lines += ladder_page(results["ladder"])
    if "data" in results:
        lines += ["## Loaders", "", *facts(results["data"]), "", *data_page(results["data"])]
    if "infer" in results:
        lines += ["## Engines", "", *facts(results["infer"]), "", *infer_page(results["infer"])]
    if "step" in results:
        lines += step_page(results["step"])
        write_kernels(out, results["step"])
    path_of(out, ".md").write_text("\n".join(lines).rstrip() + "\n")


def write_kernels(out: Path, measured: dict[str, Any]) -> None:
    """Where the time of our graph goes, for every workload that ran as one."""
    pages = [line for result in measured["results"] for line in result.get("kernel_page", [])]
    if pages:
        head = [f"# {device_name()}: the kernels of one step", "", f"`{OURS_ON_CUDA}`, one replay.", ""]
        path_of(out, "-kernels.md").write_text("\n".join([*head, *facts(measured), "", *pages]).rstrip() + "\n")


def write_doc(out: Path, name: str, what: str, lines_of: Callable[[dict[str, Any]], list[str]]) -> None:
    """The tables of every device that something was measured on, between the markers of the page about it."""
    page = out.parent / name
    if not page.exists():
        return
    lines = []
    for path in sorted(out.glob("*.json")):
        if measured := json.loads(path.read_text()).get(what):
            machine = measured["machine"]
            name = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores"
            lines += [f"### {name}, {measured['threads']} of torch's threads", "", *lines_of(measured)]
    head, _, rest = page.read_text().partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"{page}: the markers {BEGIN} and {END} are missing")
    page.write_text("\n".join([head + BEGIN, "", *lines, END]) + tail)


def infer_page(measured: dict[str, Any]) -> list[str]:
    """The engines' tables, one for each size."""
    machine = measured["machine"]
    versions = {"torch": machine["torch"]} | machine["packages"]
    told = [f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "openvino", "tensorrt") if name in versions]
    kernels = f"; our kernels for {measured['extension']['isa']}" if measured["extension"] else ""
    lines = [f"{', '.join(told)}{kernels}.", ""]
    return lines + [line for row in measured["results"] for line in size_page(row)]


def operators_page(measured: dict[str, Any]) -> list[str]:
    rows = measured["results"]
    return [
        "## Operators",
        "",
        *facts(measured),
        "",
        f"Medians of {ROUNDS} rounds, all ways taking turns in one process on inputs that are not in the caches.",
        "GB/s count each pass over the memory; a norm of more than 64x64 pixels reads its input twice. The share is",
        "that of a copy of as many bytes, timed in the same rounds. The last columns: how many times faster than",
        "torch's own ops, and than torch.compile's fusion of them.",
        "",
        "| operator | input | us | GB/s | of a copy | x torch | x compiled |",
        "|---|---|---|---|---|---|---|",
        *(operator_row(row) for row in rows),
        "",
    ]


def ladder_page(measured: dict[str, Any]) -> list[str]:
    return [
        "## Our step, rung by rung",
        "",
        *facts(measured),
        "",
        "Each case adds one thing to the one before; on a GPU in bfloat16, on a CPU in float32 and without graphs.",
        "Predictions were made for an H200 before anything was measured.",
        "",
        *tables(measured),
    ]


def step_page(measured: dict[str, Any]) -> list[str]:
    return ["## Training step", "", *facts(measured), "", *tables(measured)]


def tables(measured: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for result in measured["results"]:
        w = result["workload"]
        title = f"Batch {w['batch']}, {w['size']} px, {w['blocks']} blocks, {w['channels']} channels"
        lines += [
            f"### {result.get('title', title)}",
            "",
            f"Median of {result.get('rounds', ROUNDS)} steps, the cases taking turns in one process.",
            "",
            result["table"],
            "",
        ]
        lines += [f"Left out: {case} ({why})" for case, why in result["left_out"].items()]
    return lines


def facts(measured: dict[str, Any]) -> list[str]:
    machine = {key: value for key, value in measured["machine"].items() if not isinstance(value, dict)}
    return [
        f"- measured: {measured['date']}, commit {measured['commit']}, {measured['threads']} threads",
        *(f"- {key}: {value}" for key, value in machine.items()),
        f"- extension: {measured['extension']}",
    ]


def commit() -> str:
    """The commit that was measured."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
