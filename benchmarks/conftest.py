"""pytest benchmarks/ --benchmark-only [--quick]"""

from __future__ import annotations

import pytest

from benchmarks import harness

COMPILED = ("compile", "AOTInductor")  # in the names of cases that take many seconds to set up


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="small cases, few rounds, and nothing that is compiled: about a minute"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before the benchmarks are imported, whose cases depend on it."""
    harness.quick = config.getoption("quick")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out, in quick mode, what is compiled."""
    if not harness.quick:
        return
    left_out = [item for item in items if any(word in item.name for word in COMPILED)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
