"""How the package reports: where each kind of line goes, and what comes once only."""

from __future__ import annotations

import logging

import pytest

from cyclegan_fast.logs import show_logs, warn_once


@pytest.mark.parametrize("info_to_stderr", [False, True])
def test_information_and_warnings(capsys: pytest.CaptureFixture[str], info_to_stderr: bool) -> None:
    for _ in range(2):  # a second call does not double the lines
        show_logs(info_to_stderr=info_to_stderr)
    log = logging.getLogger("cyclegan_fast.training")
    log.debug("not shown")
    log.info("%d images", 3)
    log.warning("one is %s", "odd")
    out, err = capsys.readouterr()
    information, warning = "3 images\n", "note: one is odd\n"
    assert (out, err) == (("", information + warning) if info_to_stderr else (information, warning))


def test_once_in_a_process(caplog: pytest.LogCaptureFixture) -> None:
    logs = [logging.getLogger(f"cyclegan_fast.test_{name}") for name in "ab"]
    for log in (*logs, *logs):
        warn_once(log, "values were clipped")
        warn_once(log, "other values were clipped")
    assert [(r.name[-1], r.getMessage()) for r in caplog.records] == [
        (name, text) for name in "ab" for text in ("values were clipped", "other values were clipped")
    ]
