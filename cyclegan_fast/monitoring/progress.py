"""Progress: a live bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from cyclegan_fast.monitoring.notebook import CellOutput, in_notebook

log = logging.getLogger(__name__)

PAINT_SECONDS = 0.2  # between two paintings of the bar
LOG_SECONDS = 15.0  # between two log lines
SPEED_SECONDS = 60.0  # of the past over which the speed is measured

_hidden = ContextVar("progress_hidden", default=False)

Progress = Callable[[float, float], None]
"""Called with how many are done and how many there are; a partial one counts as a fraction. Cheap at every one."""


class ProgressBar:
    """A `Progress` that is shown. Use it as a context manager and call it.

    Args:
        unit: What is counted, such as ``images``.
        title: What is done with them, such as ``decoding``; stands before each line.
        bar: False logs lines even on a terminal, where another bar is painted already.
        enabled: False shows nothing.
    """

    def __init__(self, unit: str, title: str = "", *, bar: bool = True, enabled: bool = True) -> None:
        self.unit, self.title = unit, title
        self.display = Display(unit, bar=bar, enabled=enabled, transient=True)

    def __enter__(self) -> ProgressBar:
        self.display.start()
        self.display.postpone()  # quick work shows nothing
        return self

    def __exit__(self, *exception: object) -> None:
        self.display.stop()

    def __call__(self, done: float, total: float) -> None:
        """Shows that `done` of `total` are done, unless it was shown a moment ago."""
        if done and self.display.is_due():
            rate = self.display.rate(done, total)
            title = f"{self.title}: " if self.title else ""
            line = f"{title}{count(done)}/{count(total)} {self.unit}, {', '.join(rate)}"
            self.display.show(done, total, line=line, title=self.title, details=rate)


class Display:
    """Where and when progress is shown, and how fast it is: behind `ProgressBar` and the progress of a training run.

    Args:
        unit: What is counted.
        done: How many were done before, which the speed leaves out.
        bar: False logs lines even on a terminal.
        enabled: False shows nothing.
        transient: Removes the bar from the screen at the end.
    """

    def __init__(
        self, unit: str, *, done: float = 0, bar: bool = True, enabled: bool = True, transient: bool = False
    ) -> None:
        self.unit, self.enabled = unit, enabled and not _hidden.get()
        self.live = _live(transient) if self.enabled and bar else None
        self.history = deque([(time.monotonic(), done)])  # (time, how many) at the latest showings
        self.shown = float("-inf")

    def start(self) -> None:
        """Starts the clock and, on a terminal, the bar."""
        self.start_clock(self.history[0][1])
        if self.live:
            self.live.start()

    def start_clock(self, done: float) -> None:
        """Measures the speed from now on, after so many."""
        self.history = deque([(time.monotonic(), done)])

    def stop(self) -> None:
        """Ends the bar."""
        if self.live:
            self.live.stop()

    def postpone(self) -> None:
        """Puts the next showing off, as if there had been one just now."""
        self.shown = time.monotonic()

    def is_due(self) -> bool:
        """Returns whether the last showing was long enough ago."""
        return self.enabled and time.monotonic() - self.shown >= (PAINT_SECONDS if self.live else LOG_SECONDS)

    def speed(self, done: float) -> float | None:
        """Returns how many were done per second over the last minute; None where there were none."""
        then, before = self.history[0]
        seconds = time.monotonic() - then
        return (done - before) / seconds if done > before and seconds > 0 else None

    def rate(self, done: float, total: float) -> list[str]:
        """Returns the speed over the last minute and the time left, such as ``12 images/s`` and ``3 min 20 s left``."""
        speed = self.speed(done)
        if speed is None:
            return []
        return [pace(speed, self.unit), f"{duration((total - done) / speed)} left"]

    def show(
        self, done: float, total: float, *, line: str, title: str = "", details: Sequence[str] = (), footer: str = ""
    ) -> None:
        """Logs `line`, or paints a bar with its title, the count, the details and a second line."""
        self.postpone()
        self.history.append((self.shown, done))
        while len(self.history) > 2 and self.shown - self.history[0][0] > SPEED_SECONDS:
            self.history.popleft()
        if self.live:
            self.live.update(_painted(done, total, title, details, footer), refresh=True)
        elif self.enabled:
            log.info("%s", line)


def count(number: float) -> str:
    """Returns 1,200 or 3.4: a fraction is shown only of an unfinished one."""
    return f"{int(number):,}" if number == int(number) else f"{number:,.1f}"


def pace(speed: float, unit: str) -> str:
    """Returns a speed such as ``128 steps/s`` or ``0.26 steps/s``."""
    return f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{speed:.2g} {unit}/s"


def duration(seconds: float) -> str:
    """Returns a time such as ``45 s``, ``3 min 20 s`` or ``5 h 07 min``."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if whole < 60:
        return f"{whole} s"
    return f"{minutes} min {whole % 60:02d} s" if hours == 0 else f"{hours} h {minutes % 60:02d} min"


def on_terminal() -> bool:
    """Returns whether a bar can be painted: rich is installed and stdout is a terminal that can move its cursor."""
    if not sys.stdout.isatty():
        return False
    try:
        from rich.console import Console
    except ImportError:
        return False
    terminal = Console()
    return terminal.is_terminal and not terminal.is_dumb_terminal


@contextlib.contextmanager
def progress_hidden() -> Iterator[None]:
    """Hides every progress that begins during a block."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


def _live(transient: bool) -> Any:
    """What a bar is painted on, a cell of a notebook or a terminal; None where there is neither."""
    if in_notebook():
        return CellOutput(transient)
    if not on_terminal():
        return None
    from rich.live import Live

    return Live(auto_refresh=False, transient=transient)


def _painted(done: float, total: float, title: str, details: Sequence[str], footer: str) -> Any:
    """The bar as rich renders it."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar as Bar
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, 1))
    bar = Bar(total=max(1, total), completed=done, width=24)
    counted = Text(f"{count(done)}/{count(total)}", "bold")
    line.add_row(*([title] if title else []), bar, counted, Text("  ".join(details), "dim"))
    lines = Group(line, Text(footer, "cyan")) if footer else line
    return Padding(lines, 0, expand=False)  # of the kinds that a notebook shows
