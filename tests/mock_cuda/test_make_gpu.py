"""Both calls of make gpu, ended at a random second: what they have given back by then can be read."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import cyclegan_fast

ROOT = Path(__file__).resolve().parents[2]
# What is measured is the package of the mock, the results go elsewhere, and no C++ test runs: its kernels would fail.
PROGRAM = """
import sys
from pathlib import Path
from benchmarks import give_back, gpu
docs, build = map(Path, sys.argv[1:3])
gpu.RESULTS, gpu.BUILD, gpu.CPP_TESTS, gpu.TEST_PROCESSES = docs / "results", build, Path("/bin/true"), 1
gpu.build = lambda arch: None
give_back.EVERY = 0.5
del sys.argv[1:3]
sys.exit(gpu.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", ["proof", "measure"])
def test_a_call_that_is_killed_has_given_back_what_can_be_read(tmp_path: Path, call: str) -> None:
    out, docs, build = (tmp_path / name for name in ("out", "docs", "build"))
    (docs / "results").mkdir(parents=True)
    build.mkdir()
    (build / "lib").symlink_to(Path(cyclegan_fast.__file__).parents[1])
    seconds = random.SystemRandom().uniform(3, 40)
    command = [sys.executable, "-c", PROGRAM, str(docs), str(build), call, "--seconds", "60"]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"OUT": str(out)}, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            while not (out / "log.txt").exists():
                assert process.poll() is None
                time.sleep(0.1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
        finally:
            for pid in family(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert_readable(out, f"ended after {seconds:.1f} s")


def family(pid: int) -> list[int]:
    """A process and all that it has started, itself first; each of them leads a session of its own."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def assert_readable(out: Path, when: str) -> None:
    files = sorted(path for path in out.iterdir() if not path.name.startswith("."))
    assert (out / "log.txt").read_text() and len(files) <= 8, when
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".xml":
            ElementTree.parse(path)
        elif path.suffix == ".md":
            assert path.read_text().startswith("#"), (path, when)
        elif path.suffix == ".gz":
            with tarfile.open(path) as archive:
                assert archive.getnames(), when
        else:
            assert path.name == "log.txt", path
