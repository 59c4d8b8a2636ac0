"""Progress of a run: log lines now and then, a bar on a real terminal, log lines there without rich."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cyclegan_fast.monitoring.progress import duration
from cyclegan_fast.monitoring.training_progress import TrainingProgress

ROOT = Path(__file__).resolve().parents[2]
INFO = {"epoch": 2, "lr": 2e-4, "steps_per_second": 8.0, "data_wait_percent": 30.0, "peak_memory_gib": 3.14}
LOSSES = {"G_A": 0.312, "G_B": 0.291, "cycle_A": 1.5, "cycle_B": 2.5, "D_A": 0.2, "D_B": float("nan")}
RUN = """
import logging, time
from cyclegan_fast.logs import show_logs
from cyclegan_fast.monitoring.training_progress import TrainingProgress
show_logs()
now = 0.0
time.monotonic = lambda: now
with TrainingProgress(500) as progress:
    for step in range(1, 501):
        now += 0.01
        progress.update(step, {"epoch": 1, "G_A": 0.5, "G_B": 0.25} if step % 100 == 50 else None)
        if step == 250:
            logging.getLogger("cyclegan_fast.elsewhere").info("a line from elsewhere")
"""


def test_a_log_gets_a_line_with_every_record(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with caplog.at_level(logging.INFO), TrainingProgress(1000) as progress:
        for step in range(1, 1001):
            now += 1 / 128
            progress.update(step, (INFO | LOSSES) if step % 10 == 0 else None)
    steps = [re.match(r"step ([\d,]+)/1,000, ", line)[1] for line in caplog.messages]  # no terminal codes
    assert [int(step.replace(",", "")) for step in steps] == list(range(10, 1001, 10))
    first, last = caplog.messages[0], caplog.messages[-1]
    assert first.startswith("step 10/1,000, epoch 2, ")
    assert re.fullmatch(
        r"step 1,000/1,000, epoch 2, 8 steps/s, 0 s left, lr 0.0002, 3.1 GiB, data wait 30.0%, "
        r"G 0.312\|0.291  cyc 1.5\|2.5  D 0.2\|nan",
        last,
    )


def test_a_disabled_one_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), TrainingProgress(2, enabled=False) as progress:
        progress.update(2, LOSSES)
    assert not caplog.messages


def test_a_continued_run_counts_only_its_own_steps_for_the_speed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with caplog.at_level(logging.INFO), TrainingProgress(2000, start_step=1000) as progress:
        now = 110.0
        progress.update(1050, {"epoch": 3})
    assert caplog.messages == ["step 1,050/2,000, epoch 3, 5 steps/s, 3 min 10 s left"]


def test_the_speed_is_the_record_s_and_the_time_left_is_measured_from_the_first_step(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with caplog.at_level(logging.INFO), TrainingProgress(100) as progress:
        now = 1000.0  # of reading images and compiling
        progress.begin()
        assert progress.seconds_left() is None
        now = 1020.0  # ten steps in 5 s, then a grid in 15 s
        progress.update(10, {"epoch": 1, "steps_per_second": 2.0})
    assert caplog.messages == ["step 10/100, epoch 1, 2 steps/s, 3 min 00 s left"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (18_420, "5 h 07 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def on_a_terminal(*flags: str, program: str = RUN) -> str:
    """What a terminal receives when a program, by default the run above, writes to it."""
    master, slave = os.openpty()
    received: list[bytes] = []

    def listen() -> None:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            received.append(data)

    listener = threading.Thread(target=listen)
    listener.start()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    process = subprocess.run([sys.executable, *flags, "-c", program], stdout=slave, env=environment, check=False)
    os.close(slave)
    listener.join()
    os.close(master)
    assert process.returncode == 0
    return b"".join(received).decode()


def test_a_terminal_gets_a_bar_that_is_painted_seldom() -> None:
    text = on_a_terminal()
    assert "\x1b[" in text and "500/500" in text and "G 0.5|0.25" in text and "a line from elsewhere" in text
    assert 20 < text.count("/500") < 35  # of 500 updates in 5 s: one each 0.2 s, and around lines from elsewhere


def test_without_rich_a_terminal_gets_plain_lines() -> None:
    lines = on_a_terminal("-S").splitlines()  # -S: no site-packages, so no rich
    assert [line.split(",")[0] for line in lines] == [
        *("step 50/500", "step 150/500", "step 250/500", "a line from elsewhere", "step 350/500", "step 450/500"),
        "step 500/500",
    ]
