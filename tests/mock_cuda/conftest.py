"""The tests of this folder run on the mock runtime: make mockgpu."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mock_cuda import runtime


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves them out elsewhere."""
    if runtime.preloaded():
        return
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason="not on the mock CUDA runtime: make mockgpu"))
