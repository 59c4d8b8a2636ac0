"""Image files: which there are in a folder, or match a pattern.

Hidden files and folders are no images: those whose names begin with a dot (``._0.png`` of macOS,
``.ipynb_checkpoints``) and the folders that storage systems keep for themselves (``@eaDir``, ``lost+found``). Images of
kinds that are not read are passed over, and a warning counts them.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.images.other_kinds import describe_others, other_kind, warn_of_others

log = logging.getLogger(__name__)

# Every name of the formats that `decode` reads.
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
_MAX_NAMED = 3  # links that are left out
OWN_FOLDER = ".cyclegan_fast"  # beside the data, for everything that is not the user's

_SYSTEM_NAMES = frozenset(
    {"@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx", "lost+found", "$recycle.bin"}
    | {"system volume information"}
)


def list_images(
    folder: Path, suffixes: Collection[str] = SUFFIXES, *, links_outside: Literal["refuse", "skip"] = "refuse"
) -> list[Path]:
    """Lists the image files of a folder and of those below it, or files of other suffixes, sorted by path.

    The folder itself may be a link. A link inside it is followed only if it stays inside: a linked file counts as a
    file, a linked folder is not walked again. Hidden files and folders are left out.

    Args:
        folder: Where to look.
        suffixes: Of the files that are listed, in lower case.
        links_outside: A link that leads out of the folder, or to itself, is an error; or it is left out, and a warning
            names it if it could be a file that is listed, or a folder.

    Raises:
        UserError: The folder is missing, holds no image or may not be read, or a link leads out of it.
    """
    if not is_folder(folder):
        raise MissingFileError(f"{folder}: there is no such folder; name one with images")
    search = _Search(folder.resolve(), suffixes, skips_links=links_outside == "skip")
    # As Paths compare, a/x before a-b/x, ten times as fast.
    paths = sorted(search.walk(folder), key=lambda path: str(path).replace(os.sep, "\0"))
    if not paths:
        raise UserError(_why_empty(folder, search))
    warn_of_others(folder, search.others)
    for reason in search.skipped[:_MAX_NAMED]:
        log.warning("%s; it is left out", reason)
    if (more := len(search.skipped) - _MAX_NAMED) > 0:
        log.warning("%s: %d more links lead out of it and are left out", folder, more)
    return paths


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name.

    Raises:
        UserError: It cannot be told: a folder above may not be read, or the name is too long.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise UserError(f"{str(path)[:200]}: cannot be read ({error.strerror})") from error


def url_of(name: str | os.PathLike[str]) -> str | None:
    """Returns the URL that a name is, also one that became a path and lost a slash by it; None for any other name.

    What exists under that name is no URL.
    """
    match = re.match(r"([a-z][a-z0-9+.-]+):/+(?=.)", str(name), re.IGNORECASE)  # one letter is a drive
    if match is None or os.path.lexists(name):
        return None
    return f"{match[1]}://{str(name)[match.end() :]}"


def refuse_url(name: str | os.PathLike[str], fix: str) -> None:
    """Refuses a URL.

    Raises:
        MissingFileError: With the URL, and how to go on.
    """
    if url := url_of(name):
        raise MissingFileError(f"{url[:200]}: URLs are not fetched: {fix}")


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system and not to the user, by its name alone."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def is_hidden_member(name: str) -> bool:
    """Whether a member of an archive, or a folder that it is in, is hidden."""
    return any(is_hidden(part) for part in PurePosixPath(name).parts if part != ".")


def is_pattern(name: Path | str) -> bool:
    """Whether a name, or a part of one, is a glob pattern."""
    return any(mark in str(name) for mark in "*?[")


def split_pattern(pattern: Path | str) -> tuple[Path, str]:
    """Splits a glob pattern into the folder that its fixed part names, and the rest.

    A part that exists as it is written is fixed, whatever marks are in its name. The rest is empty where all exist.
    """
    parts, root = Path(pattern).parts, Path()
    for i, part in enumerate(parts):
        if is_pattern(part) and not os.path.lexists(root / part):
            return root, str(Path(*parts[i:]))
        root /= part
    return root, ""


def match_files(pattern: Path | str) -> list[Path]:
    """The files that a glob pattern matches (``**`` for any folders), sorted; hidden ones only where it names them."""
    root, rest = split_pattern(pattern)
    whole = os.path.join(glob.escape(str(root)), rest) if rest else glob.escape(str(root))  # noqa: PTH118
    matches = map(Path, glob.glob(whole, recursive=True))  # noqa: PTH207 - a Path takes no absolute patterns
    named = set(Path(rest).parts)
    return sorted(
        path
        for path in matches
        if path.is_file()
        and not any(part.lower() in _SYSTEM_NAMES for part in path.parts[len(root.parts) :] if part not in named)
    )


class _Search:
    """One search for files; nothing may leave `top`, the resolved folder."""

    def __init__(self, top: Path, suffixes: Collection[str], *, skips_links: bool) -> None:
        self.top, self.suffixes, self.skips_links = top, suffixes, skips_links
        self.others = Counter[str]()  # images of kinds that are not read, by suffix
        self.skipped: list[str] = []  # links, each with what is wrong with it

    def walk(self, folder: Path) -> Iterator[Path]:
        """Yields the files at and below `folder`."""
        for entry in _entries(folder):
            if is_hidden(entry.name):
                continue
            path = Path(entry.path)
            if entry.is_symlink() and not self._leads_to_file(path):
                continue
            if entry.is_dir():
                yield from self.walk(path)
            elif path.suffix.lower() in self.suffixes:
                if entry.is_file() or not path.exists():  # a link to nothing is reported by whoever reads it
                    yield path
                else:
                    log.warning("%s: neither a file nor a folder, but a pipe or a device; passed over", path)
            elif suffix := other_kind(entry.name):
                self.others[suffix] += 1

    def _leads_to_file(self, link: Path) -> bool:
        """Whether a link leads to a file that may be used.

        Raises:
            UserError: It leads out of `top`, or to itself, and that is not skipped.
        """
        try:
            target = link.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError up to Python 3.12
            return self._refuse(link, f"{link}: this link leads to itself; remove it", error)
        if target.is_relative_to(self.top):
            return not target.is_dir()
        return self._refuse(link, f"{link}: this link leads out of the folder, to {target}; copy the file instead")

    def _refuse(self, link: Path, reason: str, cause: Exception | None = None) -> Literal[False]:
        if not self.skips_links:
            raise UserError(reason) from cause
        if link.suffix.lower() in self.suffixes or (cause is None and os.path.isdir(link)):  # noqa: PTH112 - never raises
            self.skipped.append(reason)
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(
            f"{folder}: this folder cannot be read ({error.strerror}); make it readable, or move it out of the data"
        ) from error


def _why_empty(folder: Path, search: _Search) -> str:
    if search.skipped:
        count = f"{len(search.skipped)} link{'s' * (len(search.skipped) > 1)}"
        return f"{folder}: holds no image but {count} that may not be followed: {search.skipped[0]}"
    if search.others:
        counts, fix = describe_others(search.others)
        return f"{folder}: holds no image that is read, but {counts}; {fix}"
    if shard := next(folder.rglob("*.tar"), None):
        pattern = shlex.quote(f"{glob.escape(str(shard.parent)).replace('{', '[{]')}/*.tar")  # can be pasted
        return f"{folder}: holds no image but shards; name them: --data-A (or -B) {pattern}"
    return f"{folder}: holds no image; put files ending in {', '.join(sorted(SUFFIXES))} there"
