"""A plugin of pytest that prints each failure when it happens, for a run that may be ended before its summary.

python -m pytest -p benchmarks.print_failures
"""

from __future__ import annotations

import pytest

MAX_LINES = 40  # the last ones of a traceback


class PrintFailures:
    """Prints the end of the traceback of each test that fails; under pytest-xdist those of all processes."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.getplugin("terminalreporter")  # which the processes of xdist lack
        if report.failed and terminal is not None:
            lines = report.longreprtext.splitlines()[-MAX_LINES:]
            for line in ["", f"FAILED {report.nodeid} ({report.when})", *lines]:
                terminal.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(PrintFailures(config), "print-failures")
