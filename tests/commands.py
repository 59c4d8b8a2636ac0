"""Runs a command in the test's own process: what a process of its own would show, without importing torch again."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from cyclegan_fast.cli import with_errors


def run_in_process(action: Callable[[], Any]) -> subprocess.CompletedProcess[str]:
    """Runs `action` as the main function of a command; returns its exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with (
            warnings.catch_warnings(),  # restores warnings.showwarning, too
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            with_errors(action)
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
    status = ended.value.code
    assert isinstance(status, int)
    return subprocess.CompletedProcess("in process", status, out.getvalue(), err.getvalue())
