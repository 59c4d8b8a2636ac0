"""The page of a soak: what was done, what was held, and the plot of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cyclegan_fast.monitoring.chart import HEIGHT, WIDTH, line_chart
from cyclegan_fast.monitoring.machine import machine_info
from cyclegan_fast.monitoring.markup import el
from tools.soak.flatness import SURE, TOLERANCE, WARM_UP, Trend

TITLES = {"rss": "Memory, MiB", "threads": "Threads", "files": "Open files"}
UNITS = {"rss": 2**20}
ROOT = Path(__file__).resolve().parents[2]
_TITLE = 24  # pixels above each chart
_STYLE = """
svg { background: #ffffff; font: 12px system-ui, sans-serif; } text { fill: #646670; } .title { fill: #17181c; }
.title { font-size: 14px; font-weight: 600; } .grid { stroke: #e3e3de; }
path { fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
.s0 { color: #2f6fde; } .s1 { color: #d4700f; } .key { fill: currentColor; }
"""


def write_report(out: Path, result: Mapping[str, Any], trends: Mapping[str, Trend]) -> None:
    """Writes soak.json, soak.svg and soak.md into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    machine = {key: value for key, value in machine_info().items() if value is not None}
    facts = {"measured": date.today().isoformat(), "commit": _commit(), **machine}
    flat = {name: {**line._asdict(), "flat": line.is_flat} for name, line in trends.items()}
    text = json.dumps({**facts, **result, "trends": flat}, indent=1) + "\n"
    (out / "soak.json").write_text(text)
    (out / "soak.svg").write_text(plot(result["cycles"]))
    (out / "soak.md").write_text(page(facts, result, trends))


def plot(cycles: list[dict[str, Any]]) -> str:
    """One chart below the other: memory, threads and files of both processes, cycle by cycle."""
    names = ("in-process", "supervisor")
    root = el("svg", el("style", _STYLE), viewBox=f"0 0 {WIDTH} {3 * (HEIGHT + _TITLE) + _TITLE}", role="img")
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("aria-label", "Memory, threads and open files of two processes that live through a soak, by cycle")
    for i, name in enumerate(names):
        x = 14 + 120 * i
        root.append(el("rect", x=x, y=8, width=14, height=4, class_=f"key s{i}"))
        root.append(el("text", name, x=x + 20, y=14))
    for i, (quantity, title) in enumerate(TITLES.items()):
        unit = UNITS.get(quantity, 1)
        series = {name: [(n, cycle[name][quantity] / unit) for n, cycle in enumerate(cycles)] for name in names}
        figure = line_chart(title, series, smooth=False, raw=True, x_name="cycle")
        chart = figure.find("svg")
        assert chart is not None
        top = _TITLE + i * (HEIGHT + _TITLE)
        root.append(el("text", title, x=14, y=top + 16, class_="title"))
        chart.set("y", str(top + _TITLE))
        chart.set("width", str(WIDTH))
        chart.set("height", str(HEIGHT))
        for path in chart.findall("path"):
            if "raw" in path.get("class", ""):  # the same line again
                chart.remove(path)
        root.append(chart)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def page(facts: Mapping[str, Any], result: Mapping[str, Any], trends: Mapping[str, Trend]) -> str:
    """The page, in Markdown."""
    rows = "\n".join(
        f"| {name} | {line.mean / unit:,.1f} | {line.slope / unit:+.4f} ± {line.error / unit:.4f} | "
        f"{line.rise / unit:+.2f} | {'yes' if line.is_flat else 'NO'} |"
        for name, line in trends.items()
        for unit in [UNITS.get(name.split()[-1], 1)]
    )
    counts = "\n".join(f"| {name} | {count:,} |" for name, count in sorted(result["counts"].items()))
    failures = "\n".join(f"- {failure}" for failure in result["failures"]) or "- none"
    machine = "\n".join(f"- {key}: {value}" for key, value in facts.items() if key != "packages")
    return f"""# Soak: trained, killed and resumed at random

Written by `make soak`; seed {result["seed"]}, {result["seconds"] / 60:g} minutes, {len(result["cycles"])} cycles.

{machine}

In each cycle one long-lived process trains a small network for 6 steps at 32 px, with each loader in turn, infers with
an engine that it has had from the beginning and with one that it opens and closes, and translates 40 files; in every
eighth it exports an ONNX file, too. Beside it the supervisor starts one command, ends it at a random moment, and reads
every file that is there then: each checkpoint is compared with its manifest and loaded with its training state, each
result is decoded, no step is lost, no process outlives its command, and no `.partial-*` is left after a clean end.

## What was done

| what | times |
|---|---|
{counts}

Failures:

{failures}

## What was held

![Memory, threads and open files of both processes, cycle by cycle](soak.svg)

A straight line through the cycles after the first {WARM_UP:.0%}, by least squares, memory in MiB. Flat is a slope
within {SURE:g} standard errors of none, or a rise over all of these cycles of less than {TOLERANCE:.0%} of the mean.

Of the objects, each export leaves some 340 of torch's own behind (the symbolic shapes of `torch.export`), and each
process that decodes images a weak reference, which torch removes again beyond 128 of them.

| process, quantity | mean | slope per cycle | rise | flat |
|---|---|---|---|---|
{rows}
"""


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
