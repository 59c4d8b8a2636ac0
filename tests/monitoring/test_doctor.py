"""The doctor, run as a user runs it, where everything is here and where things are missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import torch

from cyclegan_fast import ops
from cyclegan_fast.doctor import CORE, EXTRAS, TESTED_TORCH, covers, examine

ROOT = Path(__file__).resolve().parents[2]


def doctor(
    *words: str, source: Path = ROOT, flags: tuple[str, ...] = (), packages: str = "", home: str = "/nowhere"
) -> subprocess.CompletedProcess[str]:
    """Runs the doctor of `source`; with the flag -S no editable install is seen, and `packages` holds the others."""
    command = [sys.executable, *flags, "-m", "cyclegan_fast.doctor", *words]
    path = os.pathsep.join(filter(None, [str(source), packages]))
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "HOME": home}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=source, check=False)


def test_says_what_is_here() -> None:
    result = doctor()
    assert (result.returncode, result.stderr) == (0, "")
    assert f"✓ torch        {torch.__version__}" in result.stdout
    assert ("✓ extension" if ops.extension_available() else "✗ extension") in result.stdout


def test_json_holds_the_same_findings_and_no_home_folder() -> None:
    result = doctor("--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0 and report["verdict"] in doctor().stdout
    assert set(report) == {"cyclegan_fast", "system", "verdict", "findings"}
    found = {item["name"]: item for items in report["findings"].values() for item in items}
    assert found["torch"]["ok"] and found["torch"]["message"].startswith(torch.__version__)
    assert found["extension"]["ok"] == ops.extension_available()
    fixes = [f"fix: {item['fix']}" for item in found.values() if item["fix"]]
    assert all(fix in doctor().stdout for fix in fixes)

    poor = doctor("--json", flags=("-S",), home=str(ROOT))
    assert poor.returncode == 2 and json.loads(poor.stdout)["verdict"] == "Training cannot run here yet."
    assert str(ROOT) not in poor.stdout


def test_a_missing_extension_matters_only_to_the_strict(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "cyclegan_fast", tmp_path / "cyclegan_fast", ignore=shutil.ignore_patterns("*.so"))
    for words, status in (((), 0), (("--strict",), 2)):
        result = doctor(*words, source=tmp_path, flags=("-S",), packages=sysconfig.get_path("purelib"))
        assert (result.returncode, result.stderr) == (status, "")
        assert "✗ extension" in result.stdout and "fix: pip install -e ." in result.stdout
        assert result.stdout.rstrip().endswith("plain torch does the extension's work.")


def test_runs_without_a_single_package_and_names_each() -> None:
    result = doctor(flags=("-S",))  # -S: no site-packages
    assert (result.returncode, result.stderr) == (2, "")
    for package in ("torch", "numpy", "pillow", "safetensors", "rich", "pyyaml"):
        assert f"✗ {package}" in result.stdout
    assert 'fix: pip install "torch>=2.11"' in result.stdout and "fix: pip install rich" in result.stdout
    assert "Training cannot run here yet." in result.stdout


@pytest.mark.parametrize(
    ("version", "ok", "needed_for"),
    [
        ("2.10.1", False, "training"),
        ("2.11.0+cu130", True, "option"),
        (TESTED_TORCH + "+cu132", True, "option"),
        ("99.0.0", False, "caution"),
    ],
)
def test_judges_the_version_of_torch(monkeypatch: pytest.MonkeyPatch, version: str, ok: bool, needed_for: str) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    found = next(item for item in examine()["To train and translate"] if item.name == "torch")
    assert (found.ok, found.needed_for) == (ok, needed_for)
    assert found.message.startswith(version)
    if needed_for == "caution":
        assert found.message.endswith(f"newer than {TESTED_TORCH}, the newest tested") and found.fix is None


def test_the_extras_that_it_names_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {extra for extra, _ in EXTRAS.values()} <= set(project["optional-dependencies"])
    assert set(CORE.values()) | {"torch"} == {
        re.split("[>=<]", requirement)[0] for requirement in project["dependencies"]
    }


def test_help_shows_an_example() -> None:
    result = doctor("--help", flags=("-S",))
    assert result.returncode == 0 and "python -m cyclegan_fast.doctor --strict" in result.stdout


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (["80"], (8, 0), True),
        (["80"], (8, 9), True),
        (["86"], (8, 0), False),
        (["80"], (9, 0), False),
        (["90a"], (9, 0), True),
        (["100a"], (10, 3), False),
        (["100"], (10, 3), True),
        (["120+PTX"], (12, 1), True),
        (["80", "120+PTX"], (13, 0), True),
        (["90+PTX"], (8, 9), False),
        ([], (8, 0), False),
    ],
)
def test_knows_which_gpus_the_kernels_run_on(archs: list[str], capability: tuple[int, int], runs: bool) -> None:
    assert covers(archs, capability) is runs
