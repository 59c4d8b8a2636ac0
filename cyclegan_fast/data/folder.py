"""The folders trainA, trainB, testA and testB: which image files they hold."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from cyclegan_fast.errors import UserError

# Every name of the formats that `decode` reads.
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
OWN_FOLDER = ".cyclegan_fast"  # beside the data, for everything that is not the user's
DOMAIN_FOLDERS = ("trainA", "trainB", "testA", "testB")


def index_domain(root: Path, name: str) -> list[Path]:
    """Lists the image files of the folder `root/name`; see `index_folder`.

    Raises:
        UserError: the folder is missing or holds no image, or a link leads out of it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: there is no such data folder; it should hold the folders trainA and trainB")
    if not (root / name).is_dir():
        raise UserError(f"{root}: the folder {name} is missing; put the images of that domain there")
    return index_folder(root / name)


def index_folder(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """Lists the image files of a folder and of those below it, or files of other suffixes, sorted by path.

    The folder itself may be a link. A link inside it is followed only if it stays inside: a linked file counts as a
    file, a linked folder is not walked again.

    Raises:
        UserError: the folder holds no image, or a link leads out of it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; name one with pictures")
    # As Paths compare, a/x before a-b/x, ten times as fast.
    paths = sorted(_walk(folder, folder.resolve(), suffixes), key=lambda path: str(path).replace(os.sep, "\0"))
    if not paths:
        if shard := next(folder.rglob("*.tar"), None):
            raise UserError(f"{folder}: holds no image but shards; name them: --data-A (or -B) '{shard.parent}/*.tar'")
        raise UserError(f"{folder}: holds no image; put files ending in {', '.join(sorted(SUFFIXES))} there")
    return paths


def is_pattern(name: Path | str) -> bool:
    """Whether a name, or a part of one, is a glob pattern."""
    return any(mark in str(name) for mark in "*?[")


def match_files(pattern: Path | str) -> list[Path]:
    """The files that a glob pattern matches (``**`` for any folders), sorted."""
    matches = map(Path, glob.glob(str(pattern), recursive=True))  # noqa: PTH207 - a Path takes no absolute patterns
    return sorted(path for path in matches if path.is_file())


def index_pair(
    root: Path, split: Literal["train", "test"], direction: Literal["AtoB", "BtoA"] = "AtoB"
) -> tuple[list[Path], list[Path]]:
    """Lists the two domains of a split, in the order of `direction`: BtoA gives B's files first.

    Raises:
        UserError: as `index_domain` does, or both names lead to one folder.
    """
    names = (f"{split}A", f"{split}B")
    first, second = names if direction == "AtoB" else names[::-1]
    pair = index_domain(root, first), index_domain(root, second)
    if (root / first).samefile(root / second):
        raise UserError(f"{root}: {names[0]} and {names[1]} are the same folder; each domain needs its own images")
    return pair


def _walk(folder: Path, top: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Yields the files at and below `folder`; `top` is the resolved folder that nothing may leave."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.name == OWN_FOLDER:  # the check's contact sheet is no picture of the set
                continue
            if entry.is_symlink():
                target = path.resolve()
                if not target.is_relative_to(top):
                    raise UserError(f"{path}: this link leads out of the folder, to {target}; copy the file instead")
                if target.is_dir():
                    continue
            if entry.is_dir():
                yield from _walk(path, top, suffixes)
            elif path.suffix.lower() in suffixes:
                yield path
