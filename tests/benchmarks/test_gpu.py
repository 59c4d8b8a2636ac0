"""make gpu without a GPU: which parts run, in which time, and what is given back when the machine ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks import give_back, gpu

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], list(gpu.PARTS)),
        (["proof"], ["kernels", "tests", "record"]),
        (["step", "kernels"], ["kernels", "step"]),
        (["measure", "record"], [part for part in gpu.PARTS if part not in ("kernels", "tests")]),
    ],
)
def test_parts_run_in_the_order_of_what_they_prove(words: list[str], parts: list[str]) -> None:
    assert gpu.named(words) == parts


def test_the_two_calls_fit_into_five_and_seven_minutes() -> None:
    seconds = {call: sum(gpu.PARTS[part][0] for part in gpu.named([call])) for call in ("proof", "measure")}
    assert gpu.BUILD_SECONDS + seconds["proof"] <= 300 and gpu.BUILD_SECONDS + seconds["measure"] <= 420


def test_a_part_gets_its_share_of_what_the_others_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, given = [0.0], {}

    def part(name: str, takes: float, status: int) -> tuple[float, object]:
        def run(seconds: float) -> int:
            given[name] = seconds
            now[0] += takes
            return status

        return 10.0, run

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gpu, "build", lambda arch: now.__setitem__(0, 20.0))
    monkeypatch.setattr(gpu, "PARTS", {"a": part("a", 0.0, 0), "b": part("b", 40.0, 1), "c": part("c", 5.0, 0)})
    assert gpu.run(["a", "b", "c"], "90a", seconds=80.0) == 1  # a part that fails does not end the others
    assert given == {"a": pytest.approx(20.0), "b": pytest.approx(30.0), "c": pytest.approx(20.0)}


KILLED = """
import os, sys, time
from pathlib import Path
from benchmarks import give_back
give_back.EVERY = 0.05
out, docs, reports = map(Path, sys.argv[1:])
with give_back.copied_to(out, docs, reports):
    (docs / "results" / "gpu.md").write_text("a table")
    (docs / "data.md").write_text("a page that shows it")
    (reports / "junit-step.xml").write_text("<testsuites/>")
    os.system("echo of a child")
    print("of the program", flush=True)
    print("ready", file=sys.stderr, flush=True)
    time.sleep(600)
"""


def test_a_run_that_is_killed_has_given_back_what_it_had(tmp_path: Path) -> None:
    out, docs, reports = (tmp_path / name for name in ("out", "docs", "reports"))
    for folder in (docs / "results", reports):
        folder.mkdir(parents=True)
    (docs / "results" / "cpu.md").write_text("of another machine")
    command = [sys.executable, "-c", KILLED, str(out), str(docs), str(reports)]
    wanted = {"log.txt", "results.tar.gz", "gpu.md", "junit-step.xml"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not (out.is_dir() and wanted <= {path.name for path in out.iterdir()}):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.02)
            while "ready" not in (out / "log.txt").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == wanted  # at most 8 may come back
    assert (out / "log.txt").read_text().split("\n")[:2] == ["of a child", "of the program"]
    with tarfile.open(out / "results.tar.gz") as archive:
        names = set(archive.getnames())
    assert names <= {"results/gpu.md", "data.md"} and "results/gpu.md" in names


def test_few_files_come_back_however_many_there_are(tmp_path: Path) -> None:
    docs, reports, out = (tmp_path / name for name in ("docs", "reports", "out"))
    for folder in (docs / "results", reports, out):
        folder.mkdir(parents=True)
    for i in range(9):
        (docs / "results" / f"gpu-{i}.md").write_text(str(i))
        (reports / f"junit-{i}.xml").write_text(str(i))
    give_back.update(out, docs, reports, before={})
    give_back.update(out, docs, reports, before={})
    assert len(list(out.iterdir())) <= 7  # and the log
    with tarfile.open(out / "results.tar.gz") as archive:
        assert len(archive.getnames()) == 9
