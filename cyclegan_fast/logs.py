"""How the package reports: through loggers below "cyclegan_fast", which the commands show as plain lines.

A module has ``log = logging.getLogger(__name__)``. What a user should know is `info`, what may be a mistake `warning`;
what ends the work is a `UserError`. Used as a library, the package configures nothing: warnings reach stderr by
Python's own rule, and an application sees as much as it asks for.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_reported: set[tuple[str, str]] = set()
_lock = threading.Lock()


class _PlainHandler(logging.Handler):
    """Prints a record as one line: information on stdout, warnings on stderr behind ``note: ``."""

    def __init__(self, info_to_stderr: bool, wording: Callable[[str], str] = str) -> None:
        super().__init__()
        self.info_to_stderr, self.wording = info_to_stderr, wording

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(self.wording(record.getMessage()), line_breaks=True)
        # The streams of this moment, so that a live progress bar that redirects them stays below the line.
        if record.levelno >= logging.WARNING:
            print(f"note: {text}", file=sys.stderr, flush=True)
        else:
            stream = sys.stderr if self.info_to_stderr else sys.stdout
            print(text, file=stream, flush=True)


def show_logs(*, info_to_stderr: bool = False) -> None:
    """Shows what the package logs, as every command does.

    Args:
        info_to_stderr: Keeps stdout for the result of a command, JSON for example.
    """
    for name in ("cyclegan_fast", "__main__"):  # python -m calls the command's own module __main__
        logger = logging.getLogger(name)
        for handler in [h for h in logger.handlers if isinstance(h, _PlainHandler)]:
            logger.removeHandler(handler)
        logger.addHandler(_PlainHandler(info_to_stderr))
        logger.setLevel(logging.INFO)
        logger.propagate = False


def show_warnings_only() -> None:
    """Shows no information, after `show_logs`, in a process beside the one that reports."""
    for name in ("cyclegan_fast", "__main__"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def logs_shown(wording: Callable[[str], str] = str) -> Iterator[None]:
    """Shows what the package logs during a block, as a command does, unless the program has set up logging itself.

    Args:
        wording: Turns a message into what is shown.
    """
    logger = logging.getLogger("cyclegan_fast")
    if logger.hasHandlers():
        yield
        return
    handler, level = _PlainHandler(info_to_stderr=False, wording=wording), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def printable(text: str, *, line_breaks: bool = False) -> str:
    """Returns text with names of files in it as a terminal can show it.

    Control characters, which a terminal would obey, and bytes of names that are no text become escapes, such as \\x1b
    and \\udcff.

    Args:
        text: The message.
        line_breaks: Keeps those of a message of several lines. Tabs stay in any case.
    """
    if text.isprintable():
        return text
    kept = "\t\n" if line_breaks else "\t"
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cs") and character not in kept
        else character
        for character in text
    )


def escape_what_streams_cannot_write() -> None:
    """Lets stdout and stderr write characters that their encoding lacks as escapes, where they would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _UnfailingStream:
    """A text stream whose errors are ignored; what the system does not take stays in its buffer for the next time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def stream_errors_ignored() -> Iterator[None]:
    """Lets a block go on where stdout or stderr cannot be written: the disk is full, or a pipe's reader has gone."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _UnfailingStream(stream) for stream in streams)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in filter(None, streams):
            try:
                stream.flush()
            except OSError:  # or Python would end with a status of its own
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def warn_once(log: logging.Logger, message: str) -> None:
    """Logs a warning that would otherwise come with every image or batch: once in a process."""
    with _lock:
        if (log.name, message) in _reported:
            return
        _reported.add((log.name, message))
    log.warning("%s", message)


def _renew_lock() -> None:
    """In a forked process: a thread of the parent may have held it, and is not here to release it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew_lock)


@contextlib.contextmanager
def suppressed_output(*loggers: str) -> Iterator[None]:
    """Suppresses Python warnings and what goes to these loggers ("" is the root)."""
    levels = {log: log.level for log in map(logging.getLogger, loggers)}
    for log in levels:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)
