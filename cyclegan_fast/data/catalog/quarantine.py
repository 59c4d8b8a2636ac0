"""The quarantine list: images of a data folder that are left out, one name per line, for people to read and edit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from cyclegan_fast.data.catalog.manifest import name_in
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import write_atomically
from cyclegan_fast.images.image_file import ImageFile

FILE_NAME = "quarantine.txt"

_HEAD = """\
# Images that training leaves out: one per line, relative to this folder, with slashes (or whole, from elsewhere).
# What follows " #" is a comment. A name with " #", quotes or spaces at its ends is written as a JSON string.
"""


def read_quarantine(folder: Path) -> dict[str, int]:
    """Reads the list of a data folder.

    Nothing but names comes of it: they are compared with those of the images, and no file is opened by them.

    Returns:
        Each name and the number of its line; empty if there is no list.

    Raises:
        UserError: The list cannot be read, or a line is no name within the folder.
    """
    path = folder / FILE_NAME
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 text; save it as UTF-8, or delete it and run the check again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if name := _name_of(line, f"{path}, line {number}"):
            names.setdefault(name, number)
    return names


def leave_out(sources: Sequence[ImageFile], folder: Path) -> tuple[list[ImageFile], list[ImageFile]]:
    """Splits images into those that are used and those that the list of `folder` names.

    Raises:
        UserError: as `read_quarantine` does, or nothing is left.
    """
    names = read_quarantine(folder)
    if not names:
        return list(sources), []
    listed = {source for source in sources if name_in(folder, source.whole) in names}
    kept = [source for source in sources if source not in listed]
    if listed and not kept:
        raise UserError(f"{folder / FILE_NAME} names all {len(listed)} images of {Path(sources[0].path).parent}")
    return kept, [source for source in sources if source in listed]


def add_to_quarantine(folder: Path, reasons: Mapping[str, str]) -> Path:
    """Adds images to the list; what is there already stays as people wrote it.

    Args:
        folder: The data folder.
        reasons: Name within the folder -> why it is left out.

    Returns:
        The file.

    Raises:
        UserError: The list is damaged, or cannot be written.
    """
    path, known = folder / FILE_NAME, read_quarantine(folder)
    text = path.read_text("utf-8-sig") if known or path.exists() else _HEAD
    if text and not text.endswith("\n"):
        text += "\n"
    new = {name: reason for name, reason in reasons.items() if name not in known}
    lines = [f"{_written(name)}  # {' '.join(reason.split())}\n" for name, reason in new.items()]
    if lines:
        write_atomically(path, (text + "".join(lines)).encode("utf-8", "backslashreplace"))
    return path


def _name_of(line: str, where: str) -> str:
    """The name that a line holds, if it holds one."""
    text = line.strip()
    if text.startswith('"'):
        try:
            name, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            raise UserError(f'{where}: a name that begins with a quote must end with one, as in "a #1.jpg"') from None
        rest = text[end:].strip()
        if rest and not rest.startswith("#"):
            raise UserError(f"{where}: after the closing quote only a comment may follow, not '{rest}'")
    else:
        name = "" if text.startswith("#") else text.split(" #")[0].split("\t#")[0].strip()
    if name.startswith("\\") or ".." in PurePosixPath(name).parts or "\0" in name or name[1:3] in (":\\", ":/"):
        raise UserError(f"{where}: '{name}' leads out of the folder; write names such as trainA/0001.jpg")
    return str(PurePosixPath(name)) if name else ""


def _written(name: str) -> str:
    """A name as a line of the list."""
    plain = name == name.strip() and not name.startswith(('"', "#")) and " #" not in name and name.isprintable()
    return name if plain else json.dumps(name)
