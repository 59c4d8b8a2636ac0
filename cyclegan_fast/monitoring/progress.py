"""The progress of a command over many things of one kind: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cyclegan_fast.monitoring.console import PAINT_SECONDS, PLAIN_SECONDS, duration, on_terminal


class Progress:
    """Shows how many of a number of things are done. Use it as a context manager and call it.

    Args:
        unit: What is counted, such as ``images``.
        say: Takes the plain lines.
        enabled: False shows nothing.
    """

    def __init__(self, unit: str, *, say: Callable[[str], None] = print, enabled: bool = True) -> None:
        self.unit, self.say, self.enabled = unit, say, enabled
        self.began = self.shown = time.monotonic()
        self.live: Any = None

    def __enter__(self) -> Progress:
        self.began = self.shown = time.monotonic()
        if self.enabled and on_terminal():
            from rich.live import Live

            self.live = Live(auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, done: int, total: int) -> None:
        """Tells that `done` of `total` are done; cheap enough to be called at every one."""
        now = time.monotonic()
        if not self.enabled or now - self.shown < (PAINT_SECONDS if self.live else PLAIN_SECONDS):
            return
        self.shown = now
        speed = done / (now - self.began)
        facts = f"{speed:,.0f} {self.unit}/s", f"{duration((total - done) / speed)} left"
        if self.live:
            self._paint(done, total, "  ".join(facts))
        else:
            self.say(f"{done:,}/{total:,} {self.unit}, {', '.join(facts)}")

    def _paint(self, done: int, total: int, facts: str) -> None:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        line = Table.grid(padding=(0, 1))
        line.add_row(
            ProgressBar(total=max(1, total), completed=done, width=24),
            Text(f"{done:,}/{total:,}", "bold"),
            Text(facts, "dim"),
        )
        self.live.update(line, refresh=True)
