"""What there is to do in a bulk translation: the files of a folder, a pattern or a URL, or tar shards."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cyclegan_fast.data.locations.locations import first_few
from cyclegan_fast.data.locations.shards import expand_braces, find_shards
from cyclegan_fast.engine.translation.bulk.blocks import Block
from cyclegan_fast.engine.translation.bulk.storage import (
    LocalStorage,
    RemoteStorage,
    Storage,
    match_urls,
    open_url,
    storage_at,
)
from cyclegan_fast.engine.translation.tasks import (
    VIDEO_SUFFIXES,
    Inputs,
    find_inputs,
    input_root,
    names_file,
    plan_tasks,
    result_name,
)
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.images.find import SUFFIXES, is_hidden_member, is_pattern

Names = list[tuple[str, str]]


class Plan(NamedTuple):
    """What to translate."""

    input: Storage
    names: Names
    """Of each file its name in the input, and that of its result in the output; sorted."""
    are_shards: bool

    @property
    def unit(self) -> str:
        """What progress counts."""
        return "shards" if self.are_shards else "files"

    def blocks(self, names: Names, size: int) -> list[Block]:
        """Cuts some of the files into blocks: `size` images, one video, or one shard each."""
        if self.are_shards:
            return [Block((pair,), is_shard=True) for pair in names]
        blocks: list[Block] = []
        images: Names = []
        for pair in names:
            if PurePosixPath(pair[0]).suffix.lower() in VIDEO_SUFFIXES:
                blocks.append(Block((pair,)))
            else:
                images.append(pair)
        return blocks + [Block(tuple(images[i : i + size])) for i in range(0, len(images), size)]


def is_shards(source: Path) -> bool:
    """Whether an input is tar shards, by its name."""
    return source.suffix.lower() == ".tar" and not source.is_dir()


def plan_bulk(source: Path, output: Path) -> Plan:
    """Lists what to translate.

    Args:
        source: As for `plan_tasks`; or tar shards, a pattern with ``{000..099}`` too; or the URL of any of these.
        output: Folder for the results, or its URL. Those of an earlier run do not match a pattern.

    Raises:
        UserError: There is no such input, or the output cannot be written without harm to it.
    """
    place, results = storage_at(source), storage_at(output)
    if isinstance(results, LocalStorage) and names_file(results.root):
        raise UserError(f"--output {output} names a file, and a bulk translation writes a folder: name one")
    if isinstance(place, RemoteStorage):
        plan = _plan_remote(place.url, results)
    elif is_shards(place.root):
        plan = _plan_shards(str(place.root), results)
    elif isinstance(results, LocalStorage):
        folder, tasks = input_root(place.root), plan_tasks(place.root, results.root, overwrite=True)
        names = [(_name(task.source, folder), _name(task.target, results.root)) for task in tasks]
        return Plan(LocalStorage(folder), names, are_shards=False)
    else:
        folder, paths = input_root(place.root), find_inputs(place.root, None)
        plan = _plan(LocalStorage(folder), [_name(path, folder) for path in paths], are_shards=False)
    if _place_in(plan.input, results) == ".":
        raise UserError(f"{results} is the folder of the input: choose another output")
    if (above := _place_in(results, plan.input)) is not None:  # so that a result may lie in the input
        inputs = {f"{above}/{name}" for name, _ in plan.names}
        if (target := next((target for _, target in plan.names if target in inputs), None)) is not None:
            raise UserError(
                f"{results}/{target} is one of the inputs and would be overwritten: choose another output folder"
            )
    return plan


def _plan(place: Storage, names: list[str], *, are_shards: bool) -> Plan:
    """Gives each name that of its result.

    Raises:
        UserError: Two have the same.
    """
    pairs = [(name, name if are_shards else str(result_name(PurePosixPath(name)))) for name in names]
    twice = next((name for name, count in Counter(target for _, target in pairs).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{place}: {twice} would be the result of two files: translate them into two folders")
    return Plan(place, pairs, are_shards)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _place_in(folder: Storage, results: Storage) -> str | None:
    """Where results lie in a folder: their name in it, which is "." if they are that folder; None if elsewhere."""
    if isinstance(folder, LocalStorage) and isinstance(results, LocalStorage):
        root, path = folder.root.resolve().as_posix(), results.root.resolve().as_posix()
    elif isinstance(folder, RemoteStorage) and isinstance(results, RemoteStorage):
        (fs, root), (other, path) = open_url(folder.url), open_url(results.url)
        if fs != other:
            return None
    else:
        return None
    found = PurePosixPath(path)
    root = root or "/"  # of a file system that is the input as a whole
    return str(found.relative_to(root)) if found.is_relative_to(root) else None


def _plan_shards(pattern: str, results: Storage) -> Plan:
    shards = [Path(shard).absolute() for shard in find_shards(pattern)]
    if isinstance(results, LocalStorage):
        below = results.root.resolve()
        outside = [shard for shard in shards if not shard.resolve().is_relative_to(below)]
        shards = outside or shards  # all are below it where it is a folder above theirs
    folder = Path(os.path.commonpath([shard.parent for shard in shards]))
    plan = _plan(LocalStorage(folder), [_name(shard, folder) for shard in shards], are_shards=True)
    if isinstance(results, LocalStorage):
        inputs = Inputs(shards)
        for _, target in plan.names:
            inputs.refuse(results.path_of(target))
    return plan


def _plan_remote(url: str, results: Storage) -> Plan:
    """The files below a URL, those that match a pattern, or one file."""
    are_shards = url.lower().endswith(".tar")
    wanted = {".tar"} if are_shards else SUFFIXES | VIDEO_SUFFIXES
    names: list[str] = []
    folder = url
    if not (are_shards or is_pattern(url)):
        names = RemoteStorage(url).list_below()
    if not names:
        folder = _fixed_part(url)
        names = _matching(folder, expand_braces(url))
    inside = _place_in(RemoteStorage(folder), results)
    if inside not in (None, "."):
        if folder == url:
            raise UserError(f"{results} lies in the input folder {url}: choose an output folder outside it")
        names = [name for name in names if not name.startswith(f"{inside}/")]
    names = [name for name in names if PurePosixPath(name).suffix.lower() in wanted and not is_hidden_member(name)]
    if not names:
        raise MissingFileError(f"{url}: no image is there: correct the URL, or check the credentials")
    return _plan(RemoteStorage(folder), names, are_shards=are_shards)


def _matching(folder: str, urls: list[str]) -> list[str]:
    """Returns the names below a folder that URLs stand for, which may be patterns.

    Raises:
        MissingFileError: One of several that are none is not there.
    """
    if len(urls) > 1 and not any(map(is_pattern, urls)):  # one listing, where each would be a request of its own
        names = [url[len(folder) + 1 :] for url in urls]
        there = RemoteStorage(folder).present(names)
        if absent := [name for name in names if name not in there]:
            raise MissingFileError(f"{folder}: there is no {first_few(absent)}")
        return names
    start = len(RemoteStorage(folder).root) + 1
    return [open_url(match)[1][start:] for url in urls for match in match_urls(url)]


def _fixed_part(url: str) -> str:
    """The folder of a file, or the one above the first mark of a pattern."""
    fixed = url.rpartition("/")[0]
    while is_pattern(fixed) or "{" in fixed:
        fixed = fixed.rpartition("/")[0]
    return fixed
