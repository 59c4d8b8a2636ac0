"""The console: plain lines in a log, a bar on a real terminal, plain lines there without rich."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cyclegan_fast.monitoring.console import Console, duration

ROOT = Path(__file__).resolve().parents[2]
INFO = {"epoch": 2, "lr": 2e-4, "steps_per_second": 8.0, "data_wait_share": 0.3, "peak_memory_gib": 3.14}
LOSSES = {"G_A": 0.312, "G_B": 0.291, "cycle_A": 1.5, "cycle_B": 2.5, "D_A": 0.2, "D_B": float("nan")}
RUN = """
from cyclegan_fast.monitoring.console import Console
with Console(500) as console:
    for step in range(1, 501):
        console.update(step, {"epoch": 1, "G_A": 0.5, "G_B": 0.25})
        if step == 250:
            print("a line from elsewhere")
"""


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(1000) as console:
        for step in range(1, 1001):
            console.update(step, (INFO | LOSSES) if step % 10 == 0 else None)
    first, last = capsys.readouterr().out.splitlines()  # the first numbers and the end; no terminal codes
    assert first.startswith("step 10/1,000, epoch 2, ")
    assert re.fullmatch(
        r"step 1,000/1,000, epoch 2, \S+ steps/s, 0 s left, lr 0.0002, 3.1 GiB, data 30.0%, "
        r"G 0.312\|0.291  cyc 1.5\|2.5  D 0.2\|nan",
        last,
    )


def test_a_disabled_console_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(2, enabled=False) as console:
        console.update(2, LOSSES)
        console.log("text")
    assert capsys.readouterr().out == ""


def test_a_continued_run_counts_only_its_own_steps_for_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    console = Console(2000, start_step=1000, enabled=False)
    console.step = 1050
    assert console.steps_per_second() == 5.0


def test_messages_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(2) as console:
        console.log("checkpoint written")
    assert capsys.readouterr().out == "checkpoint written\n"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (18_420, "5 h 07 min")]
)
def test_times_are_told_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


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
    assert text.count("/500") < 50  # of 500 updates


def test_without_rich_a_terminal_gets_plain_lines() -> None:
    lines = on_a_terminal("-S").splitlines()  # -S: no site-packages, so no rich
    assert [line.split(",")[0] for line in lines] == ["step 1/500", "a line from elsewhere", "step 500/500"]
