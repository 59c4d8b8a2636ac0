"""What became of the files of a translation: gathered one by one, in little memory, and printed at the end."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from cyclegan_fast.engine.translation.files import TaskResult
from cyclegan_fast.images.metadata import LeftOut
from cyclegan_fast.logs import printable

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What became of an image or video; as `TaskResult`, for people to read."""

    source: str
    """Path, URL, or archive and member."""
    fault: str = ""
    note: str = ""
    clipped: int = 0
    left_out: LeftOut = LeftOut()

    @classmethod
    def of(cls, result: TaskResult, source: str = "") -> Outcome:
        """Makes it of a result, whose source has that name."""
        name = source or str(result.task.source)
        return cls(name, result.fault, result.note, result.clipped, result.left_out)

    @classmethod
    def from_values(cls, values: list[Any]) -> Outcome:
        """Makes it of its values, as JSON brings them."""
        source, fault, note, clipped, (lost, by_rule) = values
        return cls(source, fault, note, clipped, LeftOut(tuple(lost), tuple(by_rule)))

    @property
    def is_plain(self) -> bool:
        """Whether nothing is to be reported of it."""
        return self == Outcome(self.source)


class Report:
    """The sums and the faults of a translation.

    Args:
        max_notes: How many notes are printed; of the others their number.
    """

    def __init__(self, max_notes: int | None = None) -> None:
        self.count = 0
        """Files that were tried."""
        self.faults: dict[str, str] = {}
        """Files that were not translated, and why."""
        self.scale: tuple[float, float] | None = None
        """The values of the generator's images, which others are clipped to."""
        self._max_notes = max_notes
        self._notes: list[tuple[str, str]] = []  # the first ones
        self._noted = 0
        self._clipped, self._clipped_images = 0, 0
        self._left_out: dict[str, dict[str, tuple[str, int]]] = {name: {} for name in LeftOut._fields}

    def add(self, outcomes: Iterable[Outcome], plain: int = 0, scale: tuple[float, float] | None = None) -> None:
        """Adds outcomes, and as many of which nothing is to be reported; `scale` is that of the generator's images."""
        self.count += plain
        self.scale = scale or self.scale
        for outcome in outcomes:
            self.count += 1
            if outcome.fault:
                self.faults[outcome.source] = outcome.fault
            if outcome.note:
                self._noted += 1
                if self._max_notes is None or self._noted <= self._max_notes:
                    self._notes.append((outcome.source, outcome.note))
            self._clipped += outcome.clipped
            self._clipped_images += bool(outcome.clipped)
            for kind, found in self._left_out.items():
                for what in getattr(outcome.left_out, kind):
                    first, count = found.get(what, (outcome.source, 0))
                    found[what] = first, count + 1

    @property
    def translated(self) -> int:
        """Files that were translated."""
        return self.count - len(self.faults)

    def print_details(self) -> None:
        """Prints what is to be known of results, and every file that was not translated."""
        if self._clipped:
            plural = "s" * (self._clipped_images != 1)
            span = "{:g} to {:g}, the range of training".format(*self.scale or (math.nan, math.nan))
            print(f"{self._clipped} values in {self._clipped_images} image{plural} lay outside {span}: clipped")
        for level, kind in ((logging.WARNING, "lost"), (logging.INFO, "by_rule")):
            if found := self._left_out[kind]:
                names = "; ".join(
                    f"{what} ({first}{f' and {count - 1} more' * (count > 1)})"
                    for what, (first, count) in found.items()
                )
                log.log(level, "metadata that results lack: %s", names)
        for source, note in self._notes:
            log.warning("%s: %s", source, note)
        if self._noted > len(self._notes):
            log.warning("and %d more with such notes", self._noted - len(self._notes))
        for source, fault in self.faults.items():
            print(printable(f"not translated: {source}: {fault}"), file=sys.stderr)
