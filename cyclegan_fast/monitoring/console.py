"""The progress of a run: a live bar on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

PAINT_SECONDS = 0.2  # between two paintings of the bar
PLAIN_SECONDS = 15.0  # between two plain lines
WINDOW_SECONDS = 60.0  # of the past that the speed is taken from
SHORT_NAMES = {"cycle": "cyc"}
ENTRIES = {"epoch", "lr", "steps_per_second", "data_wait_share", "peak_memory_gib"}  # of `info`; the others are losses


class Console:
    """Shows how far a run is. Use it as a context manager.

    Args:
        total_steps: Steps of the whole run.
        start_step: Steps that were done before, when a run is continued.
        enabled: False shows nothing (every rank but the first).
    """

    def __init__(self, total_steps: int, *, start_step: int = 0, enabled: bool = True) -> None:
        self.total, self.step, self.enabled = total_steps, start_step, enabled
        self.info: dict[str, float | str | None] = {}
        self.past = deque([(time.monotonic(), start_step)])  # (time, step) at the latest paintings
        self.painted = float("-inf")
        self.bar = Bar() if enabled and on_terminal() else None

    def __enter__(self) -> Console:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.paint(self)
            self.bar.stop()

    def update(self, step: int, info: Mapping[str, float | str | None] | None = None) -> None:
        """Tells that `step` steps are done; cheap enough to be called at every one.

        Args:
            step: Steps done.
            info: New values to show from now on: ``epoch``, ``lr``, ``peak_memory_gib``, ``data_wait_share``; every
                other name is a loss.
        """
        self.step = step
        if info:
            self.info.update(info)
        now = time.monotonic()
        pause = PAINT_SECONDS if self.bar else PLAIN_SECONDS
        if not self.enabled or (now - self.painted < pause and step != self.total):
            return
        if not self.bar and not info and step != self.total:
            return  # a plain line waits for fresh numbers
        self.painted = now
        self._remember(now)
        if self.bar:
            self.bar.paint(self)
        else:
            print(f"step {step:,}/{self.total:,}, {', '.join(self.facts())}, {self.losses()}".rstrip(", "), flush=True)

    def log(self, text: str) -> None:
        """Prints a line above the bar."""
        if self.enabled:
            print(text, flush=True)

    def facts(self) -> list[str]:
        """Everything but the losses, in words."""
        info, words = self.info, []
        if "epoch" in info:
            words.append(f"epoch {info['epoch']}")
        speed = self.steps_per_second()
        if speed:
            words.append(f"{speed:.3g} steps/s")
            words.append(f"{duration((self.total - self.step) / speed)} left")
        if info.get("lr") is not None:
            words.append(f"lr {info['lr']:.2g}")
        if info.get("peak_memory_gib") is not None:
            words.append(f"{info['peak_memory_gib']:.1f} GiB")
        wait = info.get("data_wait_share")
        if wait is not None:
            words.append(f"data {wait:.1%}")  # of the time, spent waiting for images
        return words

    def losses(self) -> str:
        """The losses in pairs, such as ``G 0.31|0.29  cyc 0.8|0.9`` for both directions."""
        pairs: dict[str, list[str]] = {}
        for name, value in self.info.items():
            if name not in ENTRIES and value is not None:
                stem = name.removesuffix("_A").removesuffix("_B")
                text = f"{value:.3g}" if isinstance(value, float) else str(value)
                pairs.setdefault(SHORT_NAMES.get(stem, stem), []).append(text)
        return "  ".join(f"{stem} {'|'.join(values)}" for stem, values in pairs.items())

    def steps_per_second(self) -> float:
        """Speed over the last minute; 0 until a step is done."""
        then, before = self.past[0]
        seconds = time.monotonic() - then
        return (self.step - before) / seconds if seconds > 0 else 0.0

    def _remember(self, now: float) -> None:
        self.past.append((now, self.step))
        while len(self.past) > 2 and now - self.past[0][0] > WINDOW_SECONDS:
            self.past.popleft()


class Bar:
    """A line with a bar and a line of losses, painted with rich only when `paint` is called."""

    def __init__(self) -> None:
        from rich.live import Live

        self.live = Live(auto_refresh=False)

    def start(self) -> None:
        """Takes the terminal's last lines."""
        self.live.start()

    def paint(self, console: Console) -> None:
        """Shows the state of `console`."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, console.total), completed=console.step, width=24)
        facts = "  ".join(console.facts())
        line.add_row(bar, Text(f"{console.step:,}/{console.total:,}", "bold"), Text(facts, "dim"))
        self.live.update(Group(line, Text(console.losses(), "cyan")), refresh=True)

    def stop(self) -> None:
        """Leaves the last painting on the screen."""
        self.live.stop()


def duration(seconds: float) -> str:
    """A time in words, such as ``45 s``, ``3 min 20 s`` or ``5 h 07 min``."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if whole < 60:
        return f"{whole} s"
    return f"{minutes} min {whole % 60:02d} s" if hours == 0 else f"{hours} h {minutes % 60:02d} min"


def on_terminal() -> bool:
    """Whether a bar can be painted: rich is there and stdout is a terminal that moves its cursor."""
    if not sys.stdout.isatty():
        return False
    try:
        from rich.console import Console as RichConsole
    except ImportError:
        return False
    terminal: Any = RichConsole()
    return terminal.is_terminal and not terminal.is_dumb_terminal
