"""The progress of work on many things of one kind: a bar on a terminal, a line in the log now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from cyclegan_fast.monitoring.console import PAINT_SECONDS, PLAIN_SECONDS, duration, on_terminal

log = logging.getLogger(__name__)

Progress = Callable[[float, float], None]
"""Takes how many are done, and of how many; part of one counts as a fraction. May be called at every single one."""


class ProgressBar:
    """A `Progress` that people see. Use it as a context manager and call it.

    Args:
        unit: What is counted, such as ``images``.
        title: What is done with them, such as ``decoding``; stands before each line.
        bar: False logs lines even on a terminal, where another bar is painted already.
        enabled: False shows nothing.
    """

    def __init__(self, unit: str, title: str = "", *, bar: bool = True, enabled: bool = True) -> None:
        self.unit, self.title, self.bar, self.enabled = unit, title, bar, enabled
        self.began = self.shown = time.monotonic()
        self.live: Any = None

    def __enter__(self) -> ProgressBar:
        self.began = self.shown = time.monotonic()
        if self.enabled and self.bar and on_terminal():
            from rich.live import Live

            self.live = Live(auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, done: float, total: float) -> None:
        """Shows that `done` of `total` are done, unless it was shown a moment ago."""
        now = time.monotonic()
        if not self.enabled or not done or now - self.shown < (PAINT_SECONDS if self.live else PLAIN_SECONDS):
            return
        self.shown = now
        speed = done / (now - self.began)
        pace = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
        rate = f"{pace} {self.unit}/s", f"{duration((total - done) / speed)} left"
        if self.live:
            self._paint(done, total, "  ".join(rate))
        else:
            title = f"{self.title}: " if self.title else ""
            log.info("%s%s/%s %s, %s", title, _count(done), _count(total), self.unit, ", ".join(rate))

    def _paint(self, done: float, total: float, rate: str) -> None:
        from rich.progress_bar import ProgressBar as Bar
        from rich.table import Table
        from rich.text import Text

        line = Table.grid(padding=(0, 1))
        line.add_row(
            Text(self.title),
            Bar(total=max(1, total), completed=done, width=24),
            Text(f"{_count(done)}/{_count(total)}", "bold"),
            Text(rate, "dim"),
        )
        self.live.update(line, refresh=True)


def _count(number: float) -> str:
    """12 or 3.4: a fraction is shown only of an unfinished one."""
    return f"{int(number):,}" if number == int(number) else f"{number:,.1f}"
