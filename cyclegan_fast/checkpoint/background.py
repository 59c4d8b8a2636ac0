"""Work that goes on beside the caller, one piece at a time, and is never lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType

log = logging.getLogger(__name__)


class Background:
    """Runs one task at a time on a thread of its own. Use it as a context manager, whose end waits for the task.

    What a task raises is raised to the caller, once: by the next `check`, `wait` or `start`, or by the block's end.
    Where the block ends with an exception already, it is logged.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.join()
        if error is None:
            self.check()
        elif self.error is not None:
            log.warning("%s", self.error)

    @property
    def busy(self) -> bool:
        """Whether a task is running."""
        return self.thread is not None and self.thread.is_alive()

    def start(self, task: Callable[[], object]) -> None:
        """Begins a task once the one before has ended."""
        self.wait()
        self.thread = threading.Thread(target=self._run, args=(task,), name=self.name)
        self.thread.start()

    def wait(self) -> None:
        """Returns when no task is running; signals are handled meanwhile."""
        self.join()
        self.check()

    def join(self) -> None:
        """As `wait`, and leaves what the task raised for later."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def check(self) -> None:
        """Raises what the last task raised, if it has ended by now."""
        if self.error is not None and not self.busy:
            error, self.error = self.error, None
            raise error

    def _run(self, task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:  # whatever it is, the caller's thread raises it
            self.error = error
