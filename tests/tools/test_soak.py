"""The soak: what it takes for flat, what its checks find, and a short one."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.config import TrainConfig
from cyclegan_fast.nn import build_networks
from tests.checkpoint.saving import CONFIG
from tools.soak.actions import Broken, Soak, processes_of
from tools.soak.flatness import trend
from tools.soak.long_lived import held
from tools.soak.report import plot

ROOT = Path(__file__).resolve().parents[2]
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read from /proc")


def noisy(rise: float, noise: float, count: int = 60) -> list[float]:
    """A warm-up that rises by half, then a straight line with noise around it."""
    random_numbers = random.Random(3)
    warm = count // 4
    later = [500 + rise * i / count + random_numbers.gauss(0, noise) for i in range(count - warm)]
    return [250 + 250 * i / warm for i in range(warm)] + later


@pytest.mark.parametrize(("rise", "noise", "flat"), [(0, 5, True), (5, 0.1, True), (40, 3, False), (15, 40, True)])
def test_a_rise_counts_where_it_is_beyond_noise_and_a_fiftieth(rise: float, noise: float, flat: bool) -> None:
    found = trend(noisy(rise, noise))
    assert found.is_flat is flat
    assert abs(found.slope - rise / 60) <= 4 * found.error + 1e-9


def test_one_thread_more_now_and_then_is_no_noise() -> None:
    assert trend([9.0] * 60).is_flat and trend([9.0, 10.0] * 30).is_flat
    assert not trend([9.0 + i // 20 for i in range(60)]).is_flat
    with pytest.raises(ValueError, match="5 cycles are too few"):
        trend([1.0] * 5)


@needs_linux
def test_what_a_process_holds(tmp_path: Path) -> None:
    before = held()
    with (tmp_path / "a").open("w"):
        assert held()["files"] == before["files"] + 1
    assert before["rss"] > 50 * 2**20 and before["threads"] >= 1


@pytest.fixture
def soak(tmp_path: Path) -> Soak:
    """One whose run has a checkpoint of step 7."""
    soak = Soak(tmp_path, seed=1)
    networks = build_networks(CONFIG.model)
    save_checkpoint(
        soak.run / "checkpoints", 7, networks=networks, config=TrainConfig(model=CONFIG.model), progress={}, state={}
    )
    (soak.run / "status.json").write_text("{}")
    (soak.run / "events.jsonl").touch()
    return soak


def test_checks_of_a_run(soak: Soak) -> None:
    soak._check_run(clean=True, finished=7)
    assert soak.step == 7 and soak.counts["checkpoints that were loaded"] == 1
    with pytest.raises(Broken, match="the newest checkpoint is of step 7, after 9"):
        soak._check_run(clean=True, finished=9)
    soak.step = 8
    with pytest.raises(Broken, match="the newest checkpoint is of step 7, after 8"):
        soak._check_run(clean=False, finished=None)
    soak.step = 0
    (soak.run / "samples").mkdir()
    (soak.run / "samples" / ".partial-0123456789ab").touch()
    soak._check_run(clean=False, finished=None)  # as a kill may leave it
    soak._check_run(clean=True, finished=None)  # and a run that ends before its first step leaves it
    soak.step = 6
    with pytest.raises(Broken, match=r"left behind: .*partial-0123456789ab"):
        soak._check_run(clean=True, finished=None)
    weights = next(soak.run.glob("checkpoints/*/weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        soak._check_run(clean=False, finished=None)


def test_checks_of_translated_images(soak: Soak) -> None:
    shutil.copytree(soak.data / "testA", soak.translated)
    assert len(soak._check_images()) == 40
    path = next(soak.translated.iterdir())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        soak._check_images()


@needs_linux
def test_processes_that_outlive_their_command_are_found() -> None:
    script = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=sys.stdin)"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, start_new_session=True) as started:
        started.wait()
        assert len(processes_of(started.pid)) == 1
    while processes_of(started.pid):  # its stdin is closed
        pass


def test_the_plot_has_a_line_for_each_process_in_each_chart() -> None:
    cycle = {"rss": 2**28, "threads": 3, "files": 7}
    text = plot([{"action": "train: kill", "in-process": cycle, "supervisor": cycle}] * 9)
    root = ElementTree.fromstring(text)
    charts = root.findall("{*}svg")
    assert len(charts) == 3 and all(len(chart.findall("{*}path")) == 2 for chart in charts)


@needs_linux
@pytest.mark.slow
def test_a_short_soak(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.soak", "--minutes", "0.5", "--seed", "5", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    result = json.loads((tmp_path / "soak.json").read_text())
    assert result["counts"] and result["cycles"][0]["action"].startswith("train: ")
    assert all("too few to be judged" in failure for failure in result["failures"]), done.stderr
    assert "## What was held" in (tmp_path / "soak.md").read_text()
