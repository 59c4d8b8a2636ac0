"""Results of benchmarks: what they were measured on, the numbers in <out>/<device>.json, the pages that show them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import DEVICE
from cyclegan_fast import ops
from cyclegan_fast.monitoring.machine import machine_info

BEGIN, END = "<!-- measured -->", "<!-- end -->"  # markers, in a page of docs/, of what is written by a program
Measured = dict[str, Any]
"""Results with when, where and of which commit they were measured; see `stamped`."""


def stamped(results: list[dict[str, Any]]) -> Measured:
    """Adds the date, the commit, the machine and the versions to results."""
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "machine": machine_info(),
        "extension": ops.build_info(),
        "threads": torch.get_num_threads(),
        "results": results,
    }


def origin(measured: Measured) -> list[str]:
    """Lists in Markdown when, where and of what `measured` was measured."""
    machine = {key: value for key, value in measured["machine"].items() if not isinstance(value, dict | None)}
    return [
        f"- measured: {measured['date']}, commit {measured['commit']}, {measured['threads']} threads",
        *(f"- {key}: {value}" for key, value in machine.items()),
        f"- extension: {measured['extension']}",
    ]


def origin_line(measured: Measured) -> str:
    """Says in a line when, of which commit and on what `measured` was measured."""
    machine, threads = measured["machine"], measured["threads"]
    device = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {threads} of torch's threads"
    return f"Measured on {measured['date']} at commit {measured['commit']} on {device}"


def device_name() -> str:
    """The GPU's name, or "cpu": one with AMX is a device of its own, since bfloat16 is another matter there."""
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    return "cpu with AMX" if getattr(torch.cpu, "_is_amx_tile_supported", bool)() else "cpu"


def path_of(out: Path, suffix: str) -> Path:
    """The file of this device's results: `out`/<device><suffix>."""
    return out / (re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-") + suffix)


def read_results(out: Path) -> dict[str, Measured]:
    """What was measured before on such a device, by what it is about."""
    path = path_of(out, ".json")
    return json.loads(path.read_text()) if path.exists() else {}


def write_json(path: Path, results: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def write_page(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines).rstrip() + "\n")


def write_between_markers(page: Path, lines: list[str]) -> None:
    """Replaces what stands between the markers of a page that people wrote."""
    head, _, rest = page.read_text().partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"{page}: the markers {BEGIN} and {END} are missing")
    page.write_text("\n".join([head + BEGIN, "", *lines, END]) + tail)


def write_every_device(page: Path, out: Path, topic: str, lines_of: Callable[[Measured], list[str]]) -> None:
    """Writes the tables of every device that `topic` was measured on between the markers of the page about it."""
    if not page.exists():
        return
    lines = []
    for path in sorted(out.glob("*.json")):
        if measured := json.loads(path.read_text()).get(topic):
            machine = measured["machine"]
            name = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores"
            lines += [f"### {name}, {measured['threads']} of torch's threads", "", *lines_of(measured)]
    write_between_markers(page, lines)


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
