"""What holds for every test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out, by name, what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _package_logger() -> Iterator[None]:
    """Leaves the package's logger as it was: a command that a test calls in this process sets it up for people."""
    package = logging.getLogger("cyclegan_fast")
    handlers, level, propagate = package.handlers[:], package.level, package.propagate
    yield
    package.handlers[:], package.propagate = handlers, propagate
    package.setLevel(level)
