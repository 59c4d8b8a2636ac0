"""No race between streams, and what a race looks like."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PLANTED = {
    "no fork": "possible data race",
    "no join": "possible data race",
    "freed early": "reused before aten::sum",
}


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    """What the sanitizer reports of each case."""
    command = [sys.executable, "-m", "tests.mock_cuda.sanitizer"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_steps_and_batches_do_not_race(found: dict[str, list[str]]) -> None:
    assert len(found) > len(PLANTED)
    assert {name: errors for name, errors in found.items() if errors and name not in PLANTED} == {}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_race_is_found(found: dict[str, list[str]], name: str) -> None:
    assert any(PLANTED[name] in error for error in found[name]), found[name]
