"""python -m cyclegan_fast.doctor: reports what is here, what is missing, and the one command that fixes it."""

from __future__ import annotations

import json as json_format
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import NoReturn

from cyclegan_fast.cli import EXIT_USER_ERROR, run_command
from cyclegan_fast.diagnosis import build, packages
from cyclegan_fast.diagnosis.findings import Finding
from cyclegan_fast.diagnosis.gpu import gpu
from cyclegan_fast.diagnosis.machine import machine, switches
from cyclegan_fast.version import __version__

MARKS = {"option": "○", "caution": "!"}
Groups = dict[str, list[Finding]]


def doctor(*, smoke: bool = False, strict: bool = False, json: bool = False) -> int:
    """Reports what is here and what is missing, each with the one command that fixes it.

    For example:
        python -m cyclegan_fast.doctor --smoke
        python -m cyclegan_fast.doctor --smoke --json      # for a bug report

    Exits with 0 if training can run here, if need be without the compiled extension, and all that is installed works;
    else with 2. What is optional and absent is no fault.

    Args:
        smoke: Train three steps and translate in every backend that is here, too; this takes a minute.
        strict: Exit with 2 if the compiled extension is missing, too.
        json: Print the findings as JSON. It names no host, and the home folder is ~.

    Returns:
        Exit status.
    """
    groups = examine(smoke=smoke)
    missing: set[str] = {finding.needed_for for findings in groups.values() for finding in findings if not finding.ok}
    print(_as_json(groups, missing) if json else _as_text(groups, missing))
    return EXIT_USER_ERROR if missing & {"training", "broken", *(["extension"] if strict else [])} else 0


def examine(*, smoke: bool = False) -> Groups:
    """Everything that was found, by title."""
    needed = [packages.python(), packages.torch(), *(packages.core(*item) for item in packages.CORE.items())]
    info, reason = build.build_info()
    compiler, tools = build.compiler(), [build.build_tool(name) for name in build.BUILD_TOOLS]
    groups = {
        "To train and translate": needed,
        "The compiled extension": [*build.extension(info, reason), compiler, *tools, build.nvcc()],
        "The GPU": gpu(info),
        "Extras": packages.extras(),
        "The machine": machine(),
        "Switches": switches(),
    }
    if smoke:
        groups["Smoke test"] = _smoke_test(groups, info, compiler)
    return groups


def _smoke_test(groups: Groups, info: dict[str, object], compiler: Finding) -> list[Finding]:
    if any(not finding.ok and finding.needed_for == "training" for found in groups.values() for finding in found):
        return [Finding("training", False, "not run: what it needs is missing, see above", None, "training")]
    from cyclegan_fast.diagnosis.smoke import smoke

    return smoke(info, compiler)


def _as_text(groups: Groups, missing: set[str]) -> str:
    lines = [line for title, findings in groups.items() for line in (title, *map(_line, findings))]
    return "\n".join([*lines, _verdict(missing)])


def _as_json(groups: Groups, missing: set[str]) -> str:
    report = {
        "cyclegan_fast": __version__,
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "verdict": _verdict(missing),
        "findings": {title: [asdict(finding) for finding in findings] for title, findings in groups.items()},
    }
    text = json_format.dumps(report, indent=2)
    home = json_format.dumps(os.environ.get("HOME", "").rstrip("/"))[1:-1]  # as the text has it, letters escaped
    return text.replace(home, "~") if home else text


def _line(finding: Finding) -> str:
    mark = "✓" if finding.ok else MARKS.get(finding.needed_for, "✗")
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        mark = {"✓": "+", "✗": "x", "○": "-"}.get(mark, mark)
    seconds = "" if finding.seconds is None else f" ({finding.seconds:.1f} s)"
    fix = f"\n{'':17}fix: {finding.fix}" if finding.fix else ""
    return f"  {mark} {finding.name:<12} {finding.message}{seconds}{fix}"


def _verdict(missing: set[str]) -> str:
    if "training" in missing:
        return "Training cannot run here yet."
    if "broken" in missing:
        return "Training runs here, but not all of it: see the lines marked ✗."
    if "extension" in missing:
        return "Training runs here, but slower than it could: plain torch does the extension's work."
    return "Training runs here, with the compiled extension."


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process."""
    run_command(doctor, words)


if __name__ == "__main__":
    main()
