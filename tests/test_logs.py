"""How the package reports: where each kind of line goes, and what comes once only."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

from cyclegan_fast import logs
from cyclegan_fast.logs import printable, show_logs, warn_once


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


def test_names_become_printable() -> None:
    for text in ("a sentence.", "two\nlines\tand a tab", "日本 ü \u00a0\u200d", ""):
        assert printable(text, line_breaks=True) == text
    assert printable("two\nlines\tand a tab") == "two\\nlines\tand a tab"
    assert printable("red\x1b[31m\r\x07 \x9b \udcff.png") == "red\\x1b[31m\\r\\x07 \\x9b \\udcff.png"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_every_name_is_written_to_every_stream(encoding: str) -> None:
    code = (
        "import logging; from cyclegan_fast.cli import with_errors; from cyclegan_fast.errors import UserError\n"
        "def act():\n"
        "    name = '日本\\udcff\\x1b.png'\n"
        "    print('result', name)\n"
        "    logging.getLogger('cyclegan_fast.x').info('info %s', name)\n"
        "    logging.getLogger('cyclegan_fast.x').warning('warning %s', name)\n"
        "    raise UserError('error ' + name)\n"
        "with_errors(act)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}, check=False
    )
    name = "日本" if encoding == "utf-8" else "\\u65e5\\u672c"
    out, err = done.stdout.decode(encoding).splitlines(), done.stderr.decode(encoding).splitlines()
    assert out == [f"result {name}\\udcff\x1b.png", f"info {name}\\udcff\\x1b.png"]
    assert err == [f"note: warning {name}\\udcff\\x1b.png", f"error: error {name}\\udcff\\x1b.png"]
    assert done.returncode == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks of POSIX")
def test_a_fork_while_another_thread_warns_does_not_hang() -> None:
    held, done = threading.Event(), threading.Event()

    def warn() -> None:
        with logs._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=warn)
    thread.start()
    held.wait()
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # ends the process if it hangs
        logs.warn_once(logging.getLogger("cyclegan_fast.fork"), "from the child")
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    done.set()
    thread.join()
    assert status == 0
