"""Folders of images: the image files below one, and the domains trainA, trainB, testA and testB of a data folder."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.images.find import list_images

log = logging.getLogger(__name__)

DOMAIN_FOLDERS = ("trainA", "trainB", "testA", "testB")
SAMPLES = "samples"  # within a run's folder, its sample grids
_RUN_FILES = ("config.yaml", "events.jsonl")  # a folder that holds both is that of a training run


@contextlib.contextmanager
def readable(location: Path | str) -> Iterator[None]:
    """Turns what the system refuses while a location is read into a `UserError`."""
    try:
        yield
    except UserError:  # which may be an OSError, too
        raise
    except OSError as error:
        where = error.filename or location
        raise UserError(f"{where}: cannot be read ({error.strerror or error}); make it readable") from error


def list_folder(folder: Path) -> list[Path]:
    """Lists the image files of a folder and those below it (see `list_images`), without those of training runs.

    A run whose folder lies among its own images would otherwise train on its sample grids.

    Raises:
        UserError: The folder holds no image, or a link leads out of it.
    """
    paths = list_images(folder)
    written = find_runs(paths, folder) | ({folder / SAMPLES} if is_run(folder) else set())
    if not written:
        return paths
    kept = [path for path in paths if not written.intersection(path.parents)]
    if not kept:
        raise UserError(f"{folder}: holds no image but those of training runs; name a folder with images")
    if len(kept) < len(paths):
        names = ", ".join(map(str, sorted(written)))
        log.warning("images of training runs are left out (%s); a run's folder is better kept elsewhere", names)
    return kept


def find_runs(paths: Sequence[Path], folder: Path | None = None) -> set[Path]:
    """Returns the folders of training runs, strictly below `folder` or anywhere, in which some of the files lie."""
    parents: set[Path] = set()
    for parent in {path.parent for path in paths}:
        parents.update(_up_to(parent, folder))
    return set(filter(is_run, parents))


def list_domain(root: Path, name: str) -> list[Path]:
    """Lists the image files of the folder `root/name`; see `list_folder`.

    Raises:
        UserError: The folder is missing or holds no image, or a link leads out of it.
    """
    with readable(root):
        return list_folder(domain_folder(root, name))


def domain_folder(root: Path, name: str) -> Path:
    """Returns the folder `root/name`, whose images are not looked at.

    Raises:
        UserError: The folder is missing.
    """
    if not root.is_dir():
        raise MissingFileError(f"{root}: there is no such data folder; it should hold the folders trainA and trainB")
    if not (root / name).is_dir():
        if parent := _set_above(root):
            raise MissingFileError(
                f"{root}: the folder {name} is missing; name {parent} instead, which holds trainA and trainB"
            )
        raise MissingFileError(f"{root}: the folder {name} is missing; put the images of that domain there")
    return root / name


def list_domains(
    root: Path, split: Literal["train", "test"], direction: Literal["AtoB", "BtoA"] = "AtoB"
) -> tuple[list[Path], list[Path]]:
    """Lists the two domains of a split, in the order of `direction`: BtoA gives B's files first.

    Raises:
        UserError: As `list_domain` does, or both names lead to one folder.
    """
    names = (f"{split}A", f"{split}B")
    first, second = names if direction == "AtoB" else names[::-1]
    pair = list_domain(root, first), list_domain(root, second)
    if (root / first).samefile(root / second):
        raise UserError(f"{root}: {names[0]} and {names[1]} are the same folder; each domain needs its own images")
    return pair


def _set_above(folder: Path) -> Path | None:
    """Returns the parent of `folder` if that is the data folder: then one of its domains was named in its place."""
    parent = Path(os.path.abspath(folder)).parent  # noqa: PTH100 - resolve() would follow a link
    if not all((parent / name).is_dir() for name in DOMAIN_FOLDERS[:2]):
        return None
    return parent if folder.is_absolute() else Path(os.path.relpath(parent))


def is_run(folder: Path) -> bool:
    """Returns whether a folder is that of a training run, which may have no checkpoint yet."""
    return all((folder / name).is_file() for name in _RUN_FILES)


def _up_to(path: Path, folder: Path | None) -> list[Path]:
    """Returns `path` and the folders above it, those strictly below `folder` alone where one is given."""
    folders = [path, *path.parents]
    return folders if folder is None else folders[: folders.index(folder)]
