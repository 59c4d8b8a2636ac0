"""What `dataset check` reads: the images of each domain, found by the same functions as for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cyclegan_fast.config import DataConfig
from cyclegan_fast.data.audit.findings import Finding
from cyclegan_fast.data.catalog.quarantine import exclude
from cyclegan_fast.data.locations.domains import refuse_unclear_locations
from cyclegan_fast.data.locations.folders import DOMAIN_FOLDERS, list_domain, readable
from cyclegan_fast.data.locations.locations import catalog_folder_of, find_images
from cyclegan_fast.data.locations.pairs import match_names
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.images.image_file import ImageFile, as_image_file

SIDE_BY_SIDE = ("train", "val", "test")  # folders in which each image shows A on its left and B on its right
_REQUIRED = ("train", "trainA", "trainB")


class Group(NamedTuple):
    """The images of one domain, or of both where they are side by side."""

    name: str
    """trainA, trainB, testA or testB; train, val or test."""
    catalog_folder: Path
    """The folder that keeps the manifest and the quarantine list."""
    used: list[ImageFile]
    quarantined: list[ImageFile]


class Groups(NamedTuple):
    """Everything that is to be read, and what is wrong already."""

    title: str
    groups: list[Group]
    absent: list[str]
    """Names of groups that may be absent, and are."""
    findings: list[Finding]
    """Groups that cannot be used."""


def list_groups(config: DataConfig) -> Groups:
    """Finds the images that `config` names.

    Raises:
        UserError: Nothing is named, or in two ways; there is no such folder; a damaged quarantine list.
    """
    refuse_unclear_locations(config)
    if config.data_A is not None and config.data_B is not None:
        title = f"A {' '.join(config.data_A)}, B {' '.join(config.data_B)}"
        locations = {"trainA": config.data_A, "trainB": config.data_B}
        if config.test_A is not None and config.test_B is not None:
            locations |= {"testA": config.test_A, "testB": config.test_B}
        result = _collect(title, list(locations), lambda name: _from_locations(name, locations[name]))
        return _with_pairs(result) if config.paired else result
    assert config.data is not None
    with readable(config.data):
        result = _in_data_folder(config.data, config.paired)
    side_by_side = any(group.name in SIDE_BY_SIDE for group in result.groups)
    return _with_pairs(result) if config.paired and not side_by_side else result


def _in_data_folder(folder: Path, paired: bool) -> Groups:
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: there is no such data folder; it should hold the folders trainA and trainB")
    names = SIDE_BY_SIDE if paired and (folder / "train").is_dir() else DOMAIN_FOLDERS
    present = [name for name in names if name in _REQUIRED or (folder / name).exists()]
    result = _collect(str(folder), present, lambda name: _from_folder(name, folder))
    result.absent.extend(name for name in names if name not in present)
    result.findings.extend(_one_folder_twice(folder, [group.name for group in result.groups]))
    return result


def _collect(title: str, names: Sequence[str], find: Callable[[str], Group]) -> Groups:
    """Each group by itself, so that one that cannot be used leaves the others."""
    result = Groups(title, [], [], [])
    for name in names:
        try:
            result.groups.append(find(name))
        except UserError as error:
            result.findings.append(Finding("folder", name, str(error)))
    return result


def _from_folder(name: str, folder: Path) -> Group:
    return _group(name, folder, [as_image_file(path) for path in list_domain(folder, name)])


def _from_locations(name: str, locations: Sequence[str]) -> Group:
    files = find_images(locations)
    return _group(name, catalog_folder_of(locations[0], files[0]), files)


def _group(name: str, catalog_folder: Path, files: list[ImageFile]) -> Group:
    kept = exclude(files, catalog_folder)
    used = [file for file in kept if file is not None]
    return Group(name, catalog_folder, used, [file for file, use in zip(files, kept, strict=True) if use is None])


def _one_folder_twice(folder: Path, names: Sequence[str]) -> Iterator[Finding]:
    for split in ("train", "test"):
        pair = f"{split}A", f"{split}B"
        if all(name in names for name in pair) and (folder / pair[0]).samefile(folder / pair[1]):
            reason = f"{pair[0]} and {pair[1]} are the same folder; each domain needs its own images"
            yield Finding("folder", pair[1], reason)


def _with_pairs(result: Groups) -> Groups:
    """Adds the images that have no partner of their name to what is wrong."""
    files = {group.name: [*group.used, *group.quarantined] for group in result.groups}
    for split in ("train", "test"):
        sides = f"{split}A", f"{split}B"
        if not all(name in files for name in sides):
            continue
        try:
            _, unpaired = match_names(files[sides[0]], files[sides[1]])
        except UserError as error:
            result.findings.append(Finding("folder", split, str(error)))
        else:
            reason = "there is no image of the same name in the other domain"
            result.findings.extend(Finding("partner", str(file), reason) for file in unpaired)
    return result
