"""python -m cyclegan_fast.dataset as users run it."""

import subprocess
import sys
from pathlib import Path

import pytest


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cyclegan_fast.dataset", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_scenes_then_check(tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    done = run("scenes", "--out", out, "--size", "32", "--train", "4", "--test", "2", "--seed", "0")
    assert done.returncode == 0, done.stderr
    done = run("check", out)
    assert done.returncode == 0, done.stderr
    assert "trainA: 4 files, 4 good, 32x32 to 32x32 pixels" in done.stdout


@pytest.mark.parametrize("bad_file", ["bomb.png"], indirect=True)
def test_check_lists_what_is_wrong(bad_file: Path) -> None:
    done = run("check", bad_file.parent.parent)
    assert done.returncode == 2
    assert f"bad: {bad_file}: " in done.stdout and "8 files, 7 good" in done.stdout
    assert "testA: absent" in done.stdout and "Traceback" not in done.stderr


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    done = run("check", tmp_path / "nowhere")
    assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
    file = tmp_path / "file"
    file.touch()
    for words, reason in (
        ((tmp_path, "--size", "8"), "--size must be from 32 to 1024"),
        ((file, "--train", "1", "--test", "0"), f"cannot write the data set {file}: "),
    ):
        done = run("scenes", "--out", *words)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(f"error: {reason}") and done.stderr.count("\n") == 1
