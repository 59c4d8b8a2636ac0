"""The bounded run: always the same few hundred files; `make fuzz` reads others for MINUTES."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclegan_fast.errors import UserError
from tests.fuzz import run
from tests.fuzz.__main__ import fuzz
from tests.fuzz.mutations import Change, changed, changes, with_png_checksums, with_tar_checksums
from tests.fuzz.run import Fuzzer
from tests.fuzz.targets import TARGETS, Target

EXAMPLES = 40  # files of each kind
needs_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from /proc"
)


@needs_linux
def test_every_reader_takes_what_it_gets_or_refuses_it_in_a_sentence(tmp_path: Path) -> None:
    result = fuzz(tmp_path, examples=EXAMPLES)
    assert result.finds == {}
    assert set(result.cases) == set(TARGETS) and min(result.cases.values()) >= EXAMPLES


@needs_linux
def test_a_reader_that_kills_the_process_is_found_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = "import os, signal\nimport cyclegan_fast.train\ndef resolve(path, given):\n"
    hook += "    if b'generator' not in path.read_bytes():\n        os.kill(os.getpid(), signal.SIGSEGV)\n"
    (tmp_path / "sitecustomize.py").write_text(f"{hook}cyclegan_fast.train.resolve = resolve\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(":")]))
    earlier = tmp_path / "out" / "finds" / "bmp-0123456789ab.txt"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("of another run, and fixed since")
    os.utime(earlier, (0, 0))
    result = fuzz(tmp_path / "out", targets=["config.yaml", "bmp"], examples=5)
    (name,) = result.finds
    assert name.startswith("config.yaml-") and result.finds[name].startswith("the process ended with SIGSEGV")
    assert b"generator" not in (tmp_path / "out" / "finds" / f"{name}.bin").read_bytes()
    assert result.cases["bmp"] >= 5


def refuse_in_lines(content: bytes, folder: Path) -> object:
    raise UserError("first line\nsecond line")


def refuse_at_length(content: bytes, folder: Path) -> object:
    raise UserError("x" * 1000)


def fail(content: bytes, folder: Path) -> object:
    raise ValueError("not for users")


def take_memory(content: bytes, folder: Path) -> object:
    return np.ones(300 * 2**20, np.uint8)


@needs_linux
@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (refuse_in_lines, "no sentence: 'first line"),
        (refuse_at_length, "a sentence of 1000 characters"),
        (fail, "ValueError: not for users"),
        (take_memory, "reading it took "),
    ],
)
def test_what_is_no_sentence_is_a_find(
    read: Callable[[bytes, Path], object], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_damaged(content: bytes, folder: Path) -> object:
        return None if content == b"sound" else read(content, folder)

    monkeypatch.setattr(run, "MAX_PEAK", 200 * 2**20)
    monkeypatch.setitem(run.TARGETS, "planted", Target(lambda: [b"sound"], read_damaged))
    assert Fuzzer(tmp_path).try_target("planted", 10, number=None, until=time.monotonic() + 1e6) == 1
    (found,) = (tmp_path / "finds").glob("planted-*.txt")
    assert reason in found.read_text() and found.with_suffix(".bin").read_bytes() != b"sound"


@given(st.lists(st.binary(max_size=600), min_size=1, max_size=3), st.integers(0, 9), changes())
def test_changes_fit_any_file(seeds: list[bytes], which: int, wanted: list[Change]) -> None:
    content = changed(seeds, which, wanted)
    assert len(content) <= 2**20 and content == changed(seeds, which, wanted)
    assert isinstance(with_png_checksums(content), bytes) and isinstance(with_tar_checksums(content), bytes)


@pytest.mark.parametrize("name", ["png with checksums", "tar with checksums"])
def test_checksums_of_sound_files_are_those_that_they_have(name: str) -> None:
    target = TARGETS[name]
    assert all(target.repair(content) == content for content in target.seeds())
    assert target.seeds() == TARGETS[name.partition(" ")[0]].seeds()  # the same in every process
