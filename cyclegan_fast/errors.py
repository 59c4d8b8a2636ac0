"""The one exception that a user may see: a sentence with what is wrong, where, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can fix. Commands print the sentence and exit with status 2, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What IPython and notebooks show: no traceback either."""
        return [f"{type(self).__name__}: {self}"]


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that was named is not there."""


class StorageError(UserError):
    """Nothing can be written or read there: the disk is full, for example, or there is no permission."""


class AgreedError(UserError):
    """What ends all ranks of a training alike: one of each host reports it."""


def reading_error(message: str, cause: OSError) -> UserError:
    """Makes the error about a file that could not be read: a `MissingFileError` where it is not there."""
    return (MissingFileError if isinstance(cause, FileNotFoundError) else UserError)(message)


def one_line(error: BaseException | str) -> str:
    """Returns a message as one line, cut where it is long: what a library reports may quote a whole file."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ``", did you mean 'x'?"`` for the known name nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean '{near[0]}'?" if near else ""
