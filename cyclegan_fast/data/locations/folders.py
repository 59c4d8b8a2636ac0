"""The folders trainA, trainB, testA and testB: which image files each domain holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cyclegan_fast.errors import UserError
from cyclegan_fast.images.find import list_images

DOMAIN_FOLDERS = ("trainA", "trainB", "testA", "testB")


def list_domain(root: Path, name: str) -> list[Path]:
    """Lists the image files of the folder `root/name`; see `list_images`.

    Raises:
        UserError: the folder is missing or holds no image, or a link leads out of it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: there is no such data folder; it should hold the folders trainA and trainB")
    if not (root / name).is_dir():
        raise UserError(f"{root}: the folder {name} is missing; put the images of that domain there")
    return list_images(root / name)


def list_domains(
    root: Path, split: Literal["train", "test"], direction: Literal["AtoB", "BtoA"] = "AtoB"
) -> tuple[list[Path], list[Path]]:
    """Lists the two domains of a split, in the order of `direction`: BtoA gives B's files first.

    Raises:
        UserError: as `list_domain` does, or both names lead to one folder.
    """
    names = (f"{split}A", f"{split}B")
    first, second = names if direction == "AtoB" else names[::-1]
    pair = list_domain(root, first), list_domain(root, second)
    if (root / first).samefile(root / second):
        raise UserError(f"{root}: {names[0]} and {names[1]} are the same folder; each domain needs its own images")
    return pair
