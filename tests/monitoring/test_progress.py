"""The progress of a command: plain lines now and then, nothing of what is quick, a bar on a terminal."""

import pytest

from cyclegan_fast.monitoring.progress import Progress
from tests.monitoring.test_console import on_a_terminal

RUN = """
import time
from cyclegan_fast.monitoring.progress import Progress
with Progress("images") as progress:
    for done in range(1, 501):
        progress(done, 500)
        time.sleep(0.001)
print("the end")
"""


def test_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = 0.0, []
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Progress("images", say=said.append) as progress:
        for done in range(1, 101):
            now += 0.5
            progress(done, 100)
    assert said == [
        "30/100 images, 2 images/s, 35 s left",
        "60/100 images, 2 images/s, 20 s left",
        "90/100 images, 2 images/s, 5 s left",
    ]


def test_a_disabled_one_says_nothing() -> None:
    said: list[str] = []
    with Progress("images", say=said.append, enabled=False) as progress:
        progress.shown = float("-inf")
        progress(1, 2)
    assert said == []


def test_a_terminal_gets_a_bar() -> None:
    text = on_a_terminal(program=RUN)
    assert "images/s" in text and "/500" in text and text.count("/500") < 20 and "the end" in text
