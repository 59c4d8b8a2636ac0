"""The one exception that a user may see: a sentence with what is wrong, where, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can fix. Commands print the sentence and exit with status 2, without a traceback."""


class StorageError(UserError):
    """Nothing can be written there: the disk is full, for example, or the folder is read-only."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ``", did you mean 'x'?"`` for the known name nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean '{near[0]}'?" if near else ""
