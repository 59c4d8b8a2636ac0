"""Every fault that the package answers for: what the user sees, and the tests that provoke it.

    make reliability                                    runs those tests and writes docs/reliability.md
    python -m tests.reliability tests/checkpoint        some of them; the rest of the page stays
    PYTHON -m tests.mock_cuda -m tests.reliability      those of the mock CUDA runtime, with a CUDA build of torch

A test of a fault is marked with its number, ``@pytest.mark.fault(14)``, and hands the sentence that the user gets to
the fixture `user_sees`. What they saw is stored in docs/reliability.json, of which the page is made.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE, STORED = ROOT / "docs" / "reliability.md", ROOT / "docs" / "reliability.json"
MARK, PROPERTY = "fault", "user sees"
MAX_MESSAGES = 3  # of one test about one fault: the first different ones


@dataclass(frozen=True)
class Fault:
    """One row of the page."""

    number: int
    what: str
    promise: str
    not_yet: str = ""
    """Why there is no test: what could fail is not there yet. The first test of this fault takes it away."""


@dataclass
class Seen:
    """What one test has shown in its last run."""

    cases: int = 0
    messages: dict[str, list[str]] = field(default_factory=dict)
    """By the number of the fault."""


GROUPS: dict[str, tuple[Fault, ...]] = {
    "Images and folders": (
        Fault(
            1,
            "An empty file, or text named .jpg",
            "found and named before training begins; with `--on-bad-image skip` it is left out, counted and listed",
        ),
        Fault(2, "A JPEG cut off, or damaged in the middle", "the same, whichever loader reads it"),
        Fault(3, "A PNG of 900 million pixels in a small file", "refused from its header, before it takes memory"),
        Fault(4, "An image turned by EXIF", "upright, with the same pixels from every loader"),
        Fault(
            5,
            "16 bits, one channel, palette, CMYK, transparency, floats",
            "one rule for all readers; 16 bits in give 16 bits out; what is clipped is counted and logged",
        ),
        Fault(6, "An animated file, a wrong extension", "the first frame, and a note; decoded by content"),
        Fault(
            7,
            "trainA empty, trainB missing, both the same folder, an image smaller than the crop",
            "one sentence before any network is built",
        ),
        Fault(
            8,
            "A file vanishes during an epoch",
            "the run ends with a checkpoint of the last step; with `--on-bad-image skip` another image takes its "
            "place, and it is counted",
        ),
        Fault(9, "A link or an archive member that leads out of the folder", "refused"),
    ),
    "Training": (
        Fault(
            10,
            "NaN or infinity in a loss or gradient",
            "the weights that it would move stay as they were, the state is saved beside the checkpoints, and the run "
            "ends with status 2 and the name of the loss; in every precision, and inside a CUDA graph",
        ),
        Fault(11, "fp16 overflows in every step", "the run ends after 17 skipped steps in a row and names bf16"),
        Fault(
            12,
            "SIGTERM, Ctrl-C",
            "the step is finished, a checkpoint written, and the status is 3; a second signal ends the process at once",
        ),
    ),
    "Checkpoints and resume": (
        Fault(13, "SIGKILL while a checkpoint is written", "the one before it loads, bit for bit"),
        Fault(
            14,
            "The disk is full, the folder is read-only",
            "if a log cannot be written, the run goes on with a warning; if a checkpoint cannot, it ends, and the "
            "earlier checkpoints are intact",
        ),
        Fault(
            15,
            "A checkpoint that was cut off, or in which a bit flipped",
            "found by the manifest's sha256; the file is named, and the whole checkpoint before it",
        ),
        Fault(16, "A malicious pickle named .pth", "refused and never run; there is no unsafe way to load it"),
        Fault(
            17,
            "A run is stopped and resumed",
            "bit for bit the run that never stopped: weights, moments, image pools, random numbers, learning rate, "
            "place in the epoch",
        ),
        Fault(18, "A run is resumed with another network, setting or data set", "refused; the differences are listed"),
        Fault(19, "Two runs in one folder", "the second is refused, by a lock that a dead run does not keep"),
    ),
    "Engines": (
        Fault(
            20,
            "An engine of another GPU or version, or one that was tampered with",
            "its sidecar is read before the file; the message holds the command that builds it again",
        ),
        Fault(21, "A device or runtime that is missing", "an error, never the CPU in its place"),
        Fault(
            22,
            "Input of infer: none, 2x2 pixels, odd sides, NaN, wrong channels, type or layout, 30,000 pixels a side",
            "an empty result for none; padded and cropped; a sentence that names the layout; tiles for large images",
        ),
    ),
    "On a GPU": (
        Fault(
            23,
            "The capture of a CUDA graph fails, or batches of other shapes come",
            "with `--cuda-graphs=on` an error with the reason; with `--cuda-graphs` a warning, and training goes on "
            "without the graph",
        ),
        Fault(
            24,
            "The memory is full, of the GPU or of the machine",
            "what was asked for, what is free, and which flags need less",
        ),
    ),
    "Installing": (
        Fault(
            25,
            "No compiler, no nvcc, an nvcc that does not work, no ninja",
            "the package installs and runs without what could not be built, and `doctor` names what is missing and the "
            "one command that brings it",
        ),
    ),
    "Several processes": (
        Fault(
            26,
            "One of several processes that train together dies or hangs",
            "the others end within `--rank-timeout`, and the last checkpoint goes on with any number of processes",
        ),
    ),
    "Serving": (
        Fault(
            27,
            "A server meets 500 clients, 2 GB in one request, slow clients, no images, names with paths, clients that "
            "hang up, an engine that fails, SIGTERM in the middle",
            "each request has one right answer or one clear error: memory is bounded, the HTTP status fits, health and "
            "metrics keep answering, and what was admitted is answered before the server ends",
        ),
    ),
}
FAULTS = {fault.number: fault for group in GROUPS.values() for fault in group}

HEAD = """\
# Reliability

What is promised where something goes wrong, and the test that provokes it: real damage, real signals, a real full disk.

**What survives.** A checkpoint is written beside its place and moved there whole, so whatever ends a process, the one
before it loads. `--resume auto` goes on bit for bit as if nothing had happened. A loss or a gradient that is not finite
changes no weight of its networks. Results of `translate` appear under their names when they are whole. Nothing is
overwritten unasked.

**What it costs.** A kill costs the steps since the last checkpoint: `--checkpoint-every` steps or
`--checkpoint-minutes`, whichever comes first. A signal, a full disk for logs, or a file that vanishes cost none.

**What is bounded.** Images, settings and checkpoints are read within limits of size; batches wait in bounded memory; no
wait outlives a stop that was asked for, or a process that died.

**How it ends.** What the user can fix is one sentence: what, where, and how to fix it.

| status | meaning |
|---|---|
| 0 | done |
| 2 | something that the user can fix, in one sentence on stderr |
| 3 | a signal ended a training in order: the same command with `--resume auto` goes on |
| 130, 143 | Ctrl-C ended another command, or a second Ctrl-C (130) or SIGTERM (143) a training, at once |

The tables below are written by the tests (`make reliability`): the sentences are what they saw, with folders of the
test left out. Tests in `tests/mock_cuda` run on a CUDA runtime without a GPU.
"""


# ---- What a test records.
class Recorder:
    """The fixture `user_sees`: stores the sentence that the user gets about a fault."""

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.faults = [number for mark in item.iter_markers(MARK) for number in mark.args]

    def __call__(self, message: object, fault: int | None = None) -> None:
        """Stores the message about `fault`, which may be left out where the test is of one alone."""
        if fault is None:
            (fault,) = self.faults
        assert fault in self.faults, f"the test is not marked as one of fault {fault}"
        text = str(message).strip()
        assert text and "\n" not in text and "Traceback" not in text, f"not one sentence: {text!r}"
        self.item.user_properties.append((PROPERTY, [fault, readable(text)]))


def readable(text: str) -> str:
    """Returns a message without the folders of the test that provoked it; such a folder itself becomes DIR."""
    folder = r"/[^\s:'\"]*/pytest-of-[^/\s]+/pytest-\d+/(?:popen-gw\d+/)?[^/\s:;,'\")]+|/tmp/tmp[a-z0-9_]{8}"
    text = re.sub(rf"(?:{folder})(/(?=\w))?", lambda found: "" if found[1] else "DIR", text)
    return text.replace(f"{ROOT}/", "").replace(sys.executable, "python")


class Collector:
    """A plugin of pytest: what the tests of a run record."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid.partition("[")[0]
        if report.failed:
            self.failed.add(test)
        if report.when != "call" or not report.passed:
            return
        seen = self.seen.setdefault(test, Seen())
        seen.cases += 1
        for name, value in report.user_properties:
            if name == PROPERTY:
                number, text = value
                of_fault = seen.messages.setdefault(str(number), [])
                if text not in of_fault and len(of_fault) < MAX_MESSAGES:
                    of_fault.append(text)


# ---- Which tests there are.
def marked_tests() -> dict[str, list[int]]:
    """Returns the faults of every test that is marked, by its name as pytest takes it, read from the sources."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and (numbers := list(_faults_of(node))):
                found[f"{path.relative_to(ROOT).as_posix()}::{node.name}"] = numbers
    return found


def _faults_of(test: ast.FunctionDef) -> Iterator[int]:
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == f"pytest.mark.{MARK}":
            yield from map(ast.literal_eval, decorator.args)


# ---- The page.
def page(seen: dict[str, Seen]) -> str:
    """Returns the page."""
    tests = marked_tests()
    lines = [HEAD]
    for title, faults in GROUPS.items():
        lines += [
            f"## {title}\n",
            "| | fault, and what is promised | what the user sees | tests |",
            "|---|---|---|---|",
        ]
        lines += [_row(fault, tests, seen) for fault in faults]
        lines.append("")
    return "\n".join(lines)


def _row(fault: Fault, tests: dict[str, list[int]], seen: dict[str, Seen]) -> str:
    own = {test: seen.get(test, Seen()) for test, numbers in tests.items() if fault.number in numbers}
    messages = [text for one in own.values() for text in one.messages.get(str(fault.number), [])[:MAX_MESSAGES]]
    shown = [_code(text) for text in dict.fromkeys(messages)] or [fault.not_yet or "nothing: it works"]
    names = [f"`{test}`" + f" ({one.cases} cases)" * (one.cases > 1) for test, one in own.items()] or ["not yet"]
    cells = str(fault.number), f"**{fault.what}**: {fault.promise}", "<br>".join(shown), "<br>".join(names)
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    """A message as code within a table."""
    text = text.replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def stored() -> dict[str, Seen]:
    """Returns what the last runs have shown, by the names of the tests."""
    if not STORED.exists():
        return {}
    return {name: Seen(**value) for name, value in json.loads(STORED.read_text("utf-8")).items()}


def store(seen: dict[str, Seen]) -> None:
    """Stores what the tests have shown that are still marked, and writes the page."""
    known = {name: vars(seen[name]) for name in marked_tests() if name in seen}
    STORED.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(page({name: Seen(**value) for name, value in known.items()}), "utf-8")


def main(words: list[str]) -> int:
    """Runs the marked tests, and writes the page; what a test that fails has shown before stays."""
    from tests.mock_cuda import __main__ as mock
    from tests.mock_cuda import runtime

    collector = Collector()
    on_mock: list[Any] = [*mock.PYTEST[2:], "tests/mock_cuda"] if runtime.preloaded() else []
    status = pytest.main(["-q", "-m", MARK, "-p", "no:cacheprovider", *on_mock, *words], plugins=[collector])
    store(stored() | {name: one for name, one in collector.seen.items() if name not in collector.failed})
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
