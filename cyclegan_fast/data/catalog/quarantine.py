"""The quarantine list: images of a data folder that training leaves out, for people to read and edit.

One path a line, relative to the folder, with slashes; images from elsewhere have their absolute path. Empty lines and
what follows `` #`` are skipped. After ``./`` the rest of the line is the path as it stands: so a path is written that
begins with ``#`` or a quote, holds `` #``, or has spaces at its ends. A name with a line break cannot be listed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from cyclegan_fast.data.catalog.manifest import name_in
from cyclegan_fast.documents import DocumentError, read_limited
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import write_atomically
from cyclegan_fast.images.find import list_images
from cyclegan_fast.images.image_file import ImageFile

log = logging.getLogger(__name__)

FILE_NAME = "quarantine.txt"
_MAX_BYTES = 2**28

_HEAD = "# Images that training leaves out: one path a line, relative to this folder, with slashes.\n"


def read_quarantine(folder: Path) -> dict[str, int]:
    """Reads the list of a data folder; its paths are compared with those of the images, and no file is opened by them.

    Returns:
        Each path and the number of its line; empty if there is no list.

    Raises:
        UserError: The list cannot be read, or a line is no path within the folder.
    """
    path = folder / FILE_NAME
    try:
        content = read_limited(path, _MAX_BYTES)
    except FileNotFoundError:
        return {}
    except DocumentError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if b"\0" in content or content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: is no UTF-8 text; save it as UTF-8, or delete it and run the check again")
    names: dict[str, int] = {}
    for number, line in enumerate(os.fsdecode(content.removeprefix(b"\xef\xbb\xbf")).split("\n"), 1):
        if name := _path_of(line.removesuffix("\r"), f"{path}, line {number}"):
            names.setdefault(name, number)
    return names


def exclude(files: Sequence[ImageFile], folder: Path) -> list[ImageFile | None]:
    """Returns the images, in order, with None for each that the list of `folder` names.

    Raises:
        UserError: As `read_quarantine` does, or nothing is left.
    """
    names = read_quarantine(folder)
    if not names:
        return list(files)
    kept = [None if name_in(folder, file.whole) in names else file for file in files]
    if files and not any(kept):
        raise UserError(f"{folder / FILE_NAME} names all {len(files)} images of {Path(files[0].path).parent}")
    return kept


def list_usable_images(folder: Path) -> list[Path]:
    """Lists the images of a folder but those that its own quarantine list, or that of the folder above it, names.

    Raises:
        UserError: As `list_images` and `exclude` do.
    """
    paths = list_images(folder)
    files = [ImageFile(str(path)) for path in paths]
    for place in (folder, folder.parent):
        files = [file for file in exclude(files, place) if file is not None]
    if dropped := len(paths) - len(files):
        log.info("%s: %d of %d images are left out, as %s names them", folder, dropped, len(paths), FILE_NAME)
    return [Path(file.path) for file in files]


def can_be_listed(name: str) -> bool:
    """Whether a line can hold the name."""
    return not any(mark in name for mark in "\r\n\0")


def add_to_quarantine(folder: Path, reasons: Mapping[str, str]) -> Path:
    """Adds images to the list, each below its reason; what is there already stays as people wrote it.

    Args:
        folder: The data folder.
        reasons: Path within the folder -> why it is left out.

    Returns:
        The file.

    Raises:
        UserError: The list is damaged or cannot be written, or a name has a line break.
    """
    path, listed = folder / FILE_NAME, read_quarantine(folder)
    if broken := [name for name in reasons if not can_be_listed(name)]:
        raise UserError(f"{broken[0]!r}: a name with a line break cannot be listed in {path}; rename the file")
    text = path.read_bytes() if path.exists() else _HEAD.encode()
    text += b"\n" * bool(text and not text.endswith(b"\n"))
    new = {name: " ".join(reason.split()) for name, reason in reasons.items() if name not in listed}
    if new:
        lines = [f"# {reason}\n{_line_of(name)}\n" for name, reason in new.items()]
        write_atomically(path, text + os.fsencode("".join(lines)))
    return path


def _path_of(line: str, where: str) -> str:
    """The path that a line holds; empty if it holds none."""
    if line.startswith('"'):  # as earlier versions wrote such names
        raise UserError(f"{where}: paths are no longer quoted; write the path as it is, after ./")
    path = line.removeprefix("./") if line.startswith("./") else re.split(r"(?:^|\s)#", line)[0].strip()
    if path.startswith("\\") or ".." in PurePosixPath(path).parts or path[1:3] in (":\\", ":/"):
        raise UserError(f"{where}: '{path}' leads out of the folder; write paths such as trainA/0001.jpg")
    return str(PurePosixPath(path)) if path else ""


def _line_of(name: str) -> str:
    is_plain = name == name.strip() and not name.startswith(('"', "./")) and not re.search(r"(?:^|\s)#", name)
    return name if is_plain else f"./{name}"
