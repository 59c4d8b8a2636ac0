"""What holds for every test on the mock runtime: none may break a rule of CUDA."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mock_cuda import runtime

FAULTS_EXPECTED = {"test_a_capture_that_fails_is_an_error"}  # of the GPU tests: it waits inside a capture


@pytest.fixture(autouse=True)
def _no_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that plants a fault takes it from the runtime itself."""
    runtime.take_faults()
    yield
    faults = runtime.take_faults()
    assert not faults or request.node.originalname in FAULTS_EXPECTED, "\n".join(faults)
