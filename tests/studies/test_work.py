"""Runs of a study are trained once: after a kill, after Ctrl-C, by two processes at once, and by two studies."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cyclegan_fast import experiments
from cyclegan_fast.cli import run_command
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.training.process import EXIT_STOPPED
from tests.commands import run_in_process

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120  # that a process may take on a busy machine


def command(out: Path, words: str) -> list[str]:
    return [*words.split(), "--out", str(out), "--device", "cpu"]


def start(out: Path, words: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "tests.studies.tiny", *command(out, words)]
    return subprocess.Popen(program, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(out: Path, words: str) -> str:
    """Runs the command in this process to its end; returns its output."""
    done = run_in_process(lambda: run_command(experiments.experiments, command(out, words)))
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(pattern: str, out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not any(out.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_study_continues(tmp_path: Path, number: signal.Signals) -> None:
    """The first run is done by then and stays as it is; the second one goes on after its checkpoint."""
    words = "ablation --seeds 3 --steps 80 --only gan-alone gan-forward"
    process = start(tmp_path / "out", words)
    wait_for("runs/gan-forward-seed3/checkpoints/step_*", tmp_path / "out", process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == (EXIT_STOPPED if number == signal.SIGINT else -number), output
    if number == signal.SIGINT:
        assert "stopped by a signal, 1 of 2 runs are done; the same command continues" in output
    first, second = (tmp_path / "out" / "runs" / f"{name}-seed3" for name in ("gan-alone", "gan-forward"))
    before = (first / "scores.json").stat().st_mtime_ns
    assert not (second / "scores.json").exists()

    output = finish(tmp_path / "out", words)
    assert (first / "scores.json").stat().st_mtime_ns == before
    assert re.search(r"continuing .*gan-forward-seed3/checkpoints/step_\d+ after step", output)
    assert (second / "scores.json").is_file()
    steps = [event["step"] for event in read_events(second) if "losses" in event]
    assert steps[-1] == 80 and len(steps) == len(set(steps))


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path: Path) -> None:
    words = "ablation --seeds 3 --steps 4000 --only gan-alone"
    process = start(tmp_path / "out", words)
    wait_for("runs/gan-alone-seed3/events.jsonl", tmp_path / "out", process)
    process.kill()
    process.communicate(timeout=SECONDS)
    assert not list((tmp_path / "out" / "runs" / "gan-alone-seed3").glob("checkpoints/step_*"))
    process = start(tmp_path / "out", words)
    wait_for("runs/gan-alone-seed3/checkpoints/step_*", tmp_path / "out", process)
    process.kill()
    process.communicate(timeout=SECONDS)


@pytest.mark.slow
def test_two_processes_share_the_runs(tmp_path: Path) -> None:
    words = "ablation --seeds 0 1 --steps 8 --only gan-alone gan-forward cycle-alone"
    processes = [start(tmp_path / "out", words) for _ in range(2)]
    outputs = [process.communicate(timeout=SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    began = re.findall(r"^(.*) \(\d of 6 runs are left\)$", "".join(outputs), re.MULTILINE)
    assert len(began) == len(set(began)) == 6, outputs
    for output in outputs:
        assert re.search(r"^\| GAN alone \| 0\.\d{3} ± 0\.\d{3} \(\.51\) ", output, re.MULTILINE)


@pytest.mark.usefixtures("small")
def test_studies_share_the_run_of_a_variant(tmp_path: Path) -> None:
    finish(tmp_path, "ablation --seeds 0 --steps 2 --only cyclegan")
    output = finish(tmp_path, "identity --seeds 0 --steps 2")
    assert "(1 of 2 runs are left)" in output and "without identity loss, seed 0 (" not in output
    found = json.loads((tmp_path / "identity.json").read_text())
    assert set(found["variants"]) == {"cyclegan", "identity"}
    ablation = json.loads((tmp_path / "ablation.json").read_text())
    assert found["variants"]["cyclegan"]["scores"] == ablation["variants"]["cyclegan"]["scores"]
    page = (tmp_path / "identity.html").read_text()
    assert page.count("<img") == 2 * 6 * (2 + 2)  # directions, scenes, input and truth and variants


@pytest.mark.usefixtures("small")
def test_a_model_of_one_direction_is_trained_for_each_on_pairs(tmp_path: Path) -> None:
    output = finish(tmp_path, "rivals --seeds 0 --steps 2 --only pix2pix")
    assert "pix2pix, on pairs, photo → labels, seed 0 (1 of 2 runs are left)" in output
    assert len(re.findall(r"^\| pix2pix, on pairs \| 0\.\d{3} \(\.(?:71|85)\) ", output, re.MULTILINE)) == 2
    found = json.loads((tmp_path / "rivals.json").read_text())["variants"]
    assert set(found) == {"pix2pix"} and set(found["pix2pix"]["scores"]["0"]) == {"labels_to_photo", "photo_to_labels"}
    assert (tmp_path / "rivals.html").read_text().count("<img") == 2 * 6 * 3  # input, pix2pix, truth


@pytest.mark.usefixtures("small")
def test_a_run_that_lost_its_scores_is_scored_again_but_not_trained(tmp_path: Path) -> None:
    words = "ablation --seeds 0 --steps 2 --only gan-alone"
    finish(tmp_path, words)
    scores = tmp_path / "runs" / "gan-alone-seed0" / "scores.json"
    before = scores.read_text()
    scores.unlink()
    assert "step 2/2" not in finish(tmp_path, words)
    assert scores.read_text() == before


@pytest.mark.usefixtures("small")
def test_a_dry_run_lists_what_is_left_and_writes_nothing(tmp_path: Path) -> None:
    finish(tmp_path, "ablation --seeds 0 --steps 3 --only gan-alone")
    before = sorted(tmp_path.rglob("*"))
    lines = finish(tmp_path, "ablation --seeds 0 --steps 3 --only gan-alone gan-forward --dry-run").splitlines()
    assert lines[0].split() == ["gan-alone-seed0", "done"]
    assert re.fullmatch(r"measuring some steps of GAN \+ forward cycle", lines[1])
    assert re.fullmatch(r"gan-forward-seed0 +3 steps, about .*", lines[2])
    assert re.fullmatch(r"about .* in all, by one process on this machine", lines[3])
    assert sorted(tmp_path.rglob("*")) == before
