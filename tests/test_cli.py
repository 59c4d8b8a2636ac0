"""How every command ends, whatever happens within it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("action", "status", "said"),
    [
        ("None", 0, ""),
        ("3", 3, ""),
        ("raise_(UserError('mend it'))", 2, "error: mend it\n"),
        ("raise_(KeyboardInterrupt())", 130, "interrupted\n"),
        ("(os.kill(os.getpid(), signal.SIGTERM), time.sleep(20))", 130, "interrupted\n"),
        ("warnings.warn('a word')", 0, "note: a word\n"),
    ],
)
def test_a_command_ends_with_a_status_and_at_most_a_sentence(action: str, status: int, said: str) -> None:
    program = f"""
import os, signal, time, warnings
from cyclegan_fast.cli import with_errors
from cyclegan_fast.errors import UserError

def raise_(error):
    raise error

with_errors(lambda: {action})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (status, said, "")
