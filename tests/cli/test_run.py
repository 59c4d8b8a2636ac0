"""How every command ends, whatever happens within it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("action", "status", "message"),
    [
        ("None", 0, ""),
        ("3", 3, ""),
        ("raise_(UserError('fix it'))", 2, "error: fix it\n"),
        ("raise_(KeyboardInterrupt())", 130, "interrupted\n"),
        ("(os.kill(os.getpid(), signal.SIGTERM), time.sleep(20))", 130, "interrupted\n"),
        ("warnings.warn('odd')", 0, "note: odd\n"),
        ("logging.getLogger(__name__).warning('odd')", 0, "note: odd\n"),
    ],
)
def test_a_command_ends_with_a_status_and_at_most_a_sentence(action: str, status: int, message: str) -> None:
    done = run(action)
    assert (done.returncode, done.stderr, done.stdout) == (status, message, "")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_ignored_from_the_start_stays_ignored(number: int) -> None:
    done = run(f"os.kill(os.getpid(), {int(number)})", preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_an_interrupt_within_an_exec_ends_as_any_other(tmp_path: Path) -> None:
    """As one that comes while a dataclass of a library is made, at its import; only `python -m` ended otherwise."""
    program = "from cyclegan_fast.cli import with_errors\nwith_errors(lambda: exec('raise KeyboardInterrupt'), 3)\n"
    (tmp_path / "program.py").write_text(program)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, "-m", "program"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stderr) == (3, "interrupted\n")


def run(action: str, **options: Any) -> subprocess.CompletedProcess[str]:
    program = f"""
import logging, os, signal, time, warnings
from cyclegan_fast.cli import with_errors
from cyclegan_fast.errors import UserError

def raise_(error):
    raise error

with_errors(lambda: {action})
"""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No module named 'torch'"),
        ("import ctypes; ctypes.CDLL('/there/is/no.so')", "/there/is/no.so: cannot open shared object file"),
        ("raise ImportError('half of it is missing')", "half of it is missing"),
    ],
)
def test_a_torch_that_does_not_load_is_a_sentence(content: str | None, reason: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "__init__.py").write_text(content)
    missing = "import sys; sys.modules.pop('torch', None); sys.meta_path.insert(0, Nothing())\n" * (content is None)
    program = (
        "class Nothing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        f"{missing}"
        "from cyclegan_fast.train import main\n"
        "main(['--max-steps', '1'])"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: torch does not load ({reason}")
    assert line.endswith("): python -m cyclegan_fast.doctor names the fix")
