"""Measures operators, the step, loaders and engines on this machine, and writes <out>/<device>.md and .json.

python -m benchmarks.measure --out docs/results
python -m benchmarks.measure --out docs/results --only operators      (or step, batches, ladder, data, infer)

On a GPU <out>/<device>-kernels.md lists where the time of a step's graph goes, kernel by kernel. The tables of
the loaders also go into the docs/data.md beside it, and those of the engines into docs/engines.md, between two markers.

What is compared takes turns in one process. What is not measured in a run stays as it was measured before.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bench_data import data_page, measure_data
from benchmarks.bench_infer import infer_page, measure_infer
from benchmarks.bench_ops import measure_operators, operators_page
from benchmarks.bench_step import (
    BATCHES,
    build_uncompiled,
    kernels_page,
    ladder_page,
    measure_ladder,
    measure_steps,
    step_page,
)
from benchmarks.results import (
    Measured,
    device_name,
    origin,
    path_of,
    read_results,
    stamped,
    write_every_device,
    write_json,
    write_page,
)
from benchmarks.step_cases import WORK

Report = Callable[[list[dict[str, Any]]], None]
"""Takes the results so far: what is measured is kept, whatever happens next."""
TOPICS: dict[str, tuple[float, Callable[[float, Report], None]]] = {  # name -> share of the time left, what measures it
    "operators": (0.5, measure_operators),
    "ladder": (0.3, lambda seconds, report: report(measure_ladder(seconds))),
    "data": (0.3, lambda seconds, report: report([measure_data(seconds)])),
    "infer": (0.4, measure_infer),
    "step": (0.5, functools.partial(measure_steps, [WORK])),
    "batches": (1.0, functools.partial(measure_steps, BATCHES)),
}
UNCOMPILED = {
    "step": (0.5, functools.partial(measure_steps, [WORK], build=build_uncompiled)),
    "batches": (1.0, functools.partial(measure_steps, BATCHES, build=build_uncompiled)),
}
# topic -> the page of docs/ that shows it beside the device's own
PAGES: dict[str, tuple[str, Callable[[Measured], list[str]]]] = {
    "data": ("data.md", data_page),
    "infer": ("engines.md", infer_page),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=800, help="time for everything")
    parser.add_argument("--only", choices=TOPICS, help="measure this alone")
    parser.add_argument("--uncompiled", action="store_true", help="leave out the steps that torch.compile makes")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    topics = TOPICS | UNCOMPILED if arguments.uncompiled else TOPICS
    for topic in [arguments.only] if arguments.only else topics:
        share, measure = topics[topic]
        seconds = (1.0 if arguments.only else share) * (deadline - time.monotonic())
        measure(seconds, lambda results, topic=topic: write(arguments.out, topic, results))


def write(out: Path, topic: str, results: list[dict[str, Any]]) -> None:
    """Replaces what was measured before of a topic, in the numbers and in the pages that show them."""
    everything = read_results(out) | {topic: stamped(results)}
    write_json(path_of(out, ".json"), everything)
    write_page(path_of(out, ".md"), device_page(device_name(), everything))
    if topic in PAGES:
        name, lines_of = PAGES[topic]
        write_every_device(out.parent / name, out, topic, lines_of)
    if topic == "step" and (lines := kernels_page(everything["step"], device_name())):
        write_page(path_of(out, "-kernels.md"), lines)


def device_page(device: str, everything: dict[str, Measured]) -> list[str]:
    """All tables of a device, in Markdown."""
    lines = [f"# {device}", "", "Written by `python -m benchmarks.measure`.", ""]
    if "operators" in everything:
        lines += operators_page(everything["operators"])
    if "ladder" in everything:
        lines += ladder_page(everything["ladder"])
    if "data" in everything:
        lines += ["## Loaders", "", *origin(everything["data"]), "", *data_page(everything["data"])]
    if "infer" in everything:
        lines += ["## Engines", "", *origin(everything["infer"]), "", *infer_page(everything["infer"])]
    if "step" in everything:
        lines += step_page("Training step", everything["step"])
    if "batches" in everything:
        lines += step_page("Training step, other workloads", everything["batches"])
    return lines


if __name__ == "__main__":
    main()
