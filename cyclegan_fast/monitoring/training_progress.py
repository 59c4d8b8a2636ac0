"""The progress of a training run: how far it is, how fast, and its losses."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from cyclegan_fast.monitoring.progress import Display, duration, pace

SHORT_NAMES = {"cycle": "cyc"}
NO_LOSSES = {"epoch", "lr", "steps_per_second", "data_wait_percent", "peak_memory_gib"}  # of `info`

Info = Mapping[str, float | str | None]


class TrainingProgress:
    """Shows how far a run is. Use it as a context manager.

    Args:
        total_steps: Steps of the whole run.
        start_step: Steps that were done before, when a run is continued.
        enabled: False shows nothing (every rank but the first).
    """

    def __init__(self, total_steps: int, *, start_step: int = 0, enabled: bool = True) -> None:
        self.total, self.step = total_steps, start_step
        self.info: dict[str, float | str | None] = {}
        self.display = Display("steps", done=start_step, enabled=enabled)

    def __enter__(self) -> TrainingProgress:
        self.display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.display.live:
            self._show()  # where the run ended
        self.display.stop()

    def begin(self) -> None:
        """Starts the clock again, right before the first step: what came before says nothing about the rest."""
        self.display.start_clock(self.step)

    def update(self, step: int, info: Info | None = None) -> None:
        """Notes that `step` steps are done; cheap enough to be called at every one.

        A terminal's bar is painted now and then; elsewhere each call with `info` logs a line, as does the last step.

        Args:
            step: Steps done.
            info: New values to show from now on: ``epoch``, ``lr``, ``steps_per_second``, ``peak_memory_gib``,
                ``data_wait_percent``; every other name is a loss.
        """
        self.step = step
        self.info |= info or {}
        due = self.display.is_due() if self.display.live else bool(info)
        if self.display.enabled and (due or step == self.total):
            self._show()

    def seconds_left(self) -> float | None:
        """Returns how long the rest takes at the speed of the last minute; None where that is unknown."""
        speed = self.display.speed(self.step)
        return None if speed is None else (self.total - self.step) / speed

    def _show(self) -> None:
        details, losses = self._details(), self._losses()
        line = ", ".join(filter(None, [f"step {self.step:,}/{self.total:,}", *details, losses]))
        self.display.show(self.step, self.total, line=line, details=details, footer=losses)

    def _details(self) -> list[str]:
        """Everything but the losses."""
        info = self.info
        parts = [f"epoch {info['epoch']}"] if "epoch" in info else []
        parts += self._speed()
        for name, pattern in (
            ("lr", "lr {:.2g}"),
            ("peak_memory_gib", "{:.1f} GiB"),
            ("data_wait_percent", "data wait {:.1f}%"),
        ):
            if info.get(name) is not None:
                parts.append(pattern.format(info[name]))
        return parts

    def _speed(self) -> list[str]:
        """The speed of the newest record, that of the last minute before there is one, and the time left."""
        recorded, left = self.info.get("steps_per_second"), self.seconds_left()
        speed = recorded if isinstance(recorded, float) else self.display.speed(self.step)
        shown = [pace(speed, "steps")] if speed is not None else []
        return shown + ([f"{duration(left)} left"] if left is not None else [])

    def _losses(self) -> str:
        """The losses in pairs, such as ``G 0.31|0.29  cyc 0.8|0.9`` for both directions."""
        pairs: dict[str, list[str]] = {}
        for name, value in self.info.items():
            if name not in NO_LOSSES and value is not None:
                stem = name.removesuffix("_A").removesuffix("_B")
                text = f"{value:.3g}" if isinstance(value, float) else str(value)
                pairs.setdefault(SHORT_NAMES.get(stem, stem), []).append(text)
        return "  ".join(f"{stem} {'|'.join(values)}" for stem, values in pairs.items())
