"""What `dataset check` looks at: the images of each domain, found by the same functions as for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data.audit.findings import Finding
from cyclegan_fast.data.catalog.quarantine import leave_out
from cyclegan_fast.data.locations.folders import DOMAIN_FOLDERS, list_domain
from cyclegan_fast.data.locations.locations import find_images, home_of, match_names, refuse_unclear_locations
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.image_file import ImageFile, as_image_file

SIDE_BY_SIDE = ("train", "val", "test")  # folders in which each image shows A on its left and B on its right
_NEEDED = ("train", "trainA", "trainB")


class Group(NamedTuple):
    """The images of one domain, or of both where they are side by side."""

    name: str
    """trainA, trainB, testA or testB; train, val or test."""
    home: Path
    """The folder that keeps what is known of them."""
    used: list[ImageFile]
    left_out: list[ImageFile]
    """Those that the quarantine list of `home` names."""


class Checklist(NamedTuple):
    """Everything that is to be checked, and what is wrong already."""

    title: str
    groups: list[Group]
    absent: list[str]
    """Names of groups that may be absent, and are."""
    findings: list[Finding]
    """Groups that cannot be used."""


def list_groups(config: DataConfig) -> Checklist:
    """Finds the images that `config` names.

    Raises:
        UserError: Nothing is named, or in two ways; there is no such folder; a damaged quarantine list.
    """
    refuse_unclear_locations(config)
    if config.data_A is not None and config.data_B is not None:
        title = f"A {' '.join(config.data_A)}, B {' '.join(config.data_B)}"
        named = {"trainA": config.data_A, "trainB": config.data_B}
        found = _collect(title, named, lambda name: _from_locations(named[name]))
        return _with_pairs(found) if config.paired else found
    folder = config.data
    if folder is None or not folder.is_dir():
        raise UserError(f"{folder}: there is no such data folder; it should hold the folders trainA and trainB")
    side_by_side = config.paired and (folder / "train").is_dir()
    names = SIDE_BY_SIDE if side_by_side else DOMAIN_FOLDERS
    present = [name for name in names if name in _NEEDED or (folder / name).exists()]
    found = _collect(str(folder), present, lambda name: _from_folder(folder, name))
    found.absent.extend(name for name in names if name not in present)
    found.findings.extend(_one_folder_twice(folder, [group.name for group in found.groups]))
    return _with_pairs(found) if config.paired and not side_by_side else found


def _collect(title: str, names: Sequence[str] | dict[str, tuple[str, ...]], find: Callable[[str], Group]) -> Checklist:
    """Each group by itself, so that one that cannot be used leaves the others."""
    found = Checklist(title, [], [], [])
    for name in names:
        try:
            group = find(name)
        except UserError as error:
            found.findings.append(Finding("folder", name, str(error)))
        else:
            found.groups.append(group._replace(name=name))
    return found


def _from_folder(folder: Path, name: str) -> Group:
    return Group(name, folder, *leave_out([as_image_file(path) for path in list_domain(folder, name)], folder))


def _from_locations(locations: Sequence[str]) -> Group:
    sources = find_images(locations)
    home = home_of(locations[0], sources[0])
    return Group("", home, *leave_out(sources, home))


def _one_folder_twice(folder: Path, names: Sequence[str]) -> Iterator[Finding]:
    for split in ("train", "test"):
        pair = f"{split}A", f"{split}B"
        if all(name in names for name in pair) and (folder / pair[0]).samefile(folder / pair[1]):
            reason = f"{pair[0]} and {pair[1]} are the same folder; each domain needs its own images"
            yield Finding("folder", pair[1], reason)


def _with_pairs(found: Checklist) -> Checklist:
    """Adds the images that have no partner of their name to what is wrong."""
    groups = {group.name: [*group.used, *group.left_out] for group in found.groups}
    for split in ("train", "test"):
        sides = f"{split}A", f"{split}B"
        if not all(name in groups for name in sides):
            continue
        try:
            _, lonely = match_names(groups[sides[0]], groups[sides[1]])
        except UserError as error:
            found.findings.append(Finding("folder", split, str(error)))
        else:
            reason = "there is no image of the same name in the other domain"
            found.findings.extend(Finding("partner", str(source), reason) for source in lonely)
    return found
