"""The progress of a command: plain lines now and then, nothing of what is quick, a bar on a terminal."""

import logging

import pytest

from cyclegan_fast.monitoring.progress import ProgressBar
from tests.monitoring.test_training_progress import on_a_terminal

RUN = """
import time
from cyclegan_fast.monitoring.progress import ProgressBar
now = 0.0
time.monotonic = lambda: now
with ProgressBar("images", "decoding") as progress:
    for done in range(1, 501):
        now += 1 / 256
        progress(done, 500)
print("the end")
"""


def test_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with caplog.at_level(logging.INFO), ProgressBar("images", "decoding") as progress:
        for done in range(1, 101):
            now += 0.5
            progress(done - 0.75, 100)
    assert caplog.messages == [
        "decoding: 29.2/100 images, 1.9 images/s, 36 s left",
        "decoding: 59.2/100 images, 2 images/s, 21 s left",
        "decoding: 89.2/100 images, 2 images/s, 5 s left",
    ]


def test_a_disabled_one_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), ProgressBar("images", enabled=False) as progress:
        progress.display.shown = float("-inf")
        progress(1, 2)
    assert not caplog.messages


def test_a_terminal_gets_a_bar() -> None:
    text = on_a_terminal(program=RUN)
    assert "256 images/s" in text and "decoding" in text and "the end" in text
    assert 8 < text.count("/500") < 15  # of 500 calls in 1.95 s: one each 0.2 s
