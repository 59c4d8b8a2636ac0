"""What holds for every test."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator

import pytest
import torch

from cyclegan_fast import logs
from tests.reliability import Recorder

with contextlib.suppress(ModuleNotFoundError):  # a host that only runs the GPU tests may lack it
    from hypothesis import settings

    # The same examples each time, so that no test fails by chance; --hypothesis-profile default tries new ones.
    settings.register_profile("suite", derandomize=True, deadline=None, database=None)
    settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out, by name, what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _as_in_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undoes what a command that a test calls in this process sets for its process: loggers, the handler of SIGTERM.

    What is logged once in a process may come in every test.
    """
    monkeypatch.setattr(logs, "_reported", set())
    loggers = [logging.getLogger(name) for name in ("cyclegan_fast", "__main__")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    on_sigterm = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, on_sigterm)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def user_sees(request: pytest.FixtureRequest) -> Recorder:
    """Stores the sentence that the user gets about a fault, for docs/reliability.md."""
    return Recorder(request.node)


@pytest.fixture
def default_sigint() -> Iterator[None]:
    """Lets SIGINT reach this process and its children, even where a script runs the tests in the background.

    SIGTERM as well: a handler that a library left is one that Python neither calls nor restores.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
