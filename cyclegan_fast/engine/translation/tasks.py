"""What there is to translate: which file becomes which."""

from __future__ import annotations

import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.evaluation.faithfulness import MAPS
from cyclegan_fast.images.find import SUFFIXES, is_pattern, list_images, match_files, refuse_url, split_pattern
from cyclegan_fast.images.other_kinds import other_kind

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".m4v", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv"})
OUTPUT_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".m4v"})  # of videos; others become .mkv, which takes any sound
RECONSTRUCTIONS = "reconstructions"  # folder in the output, for grids
FAITHFULNESS = "faithfulness"  # folder in the output, with a folder for each kind of maps


@dataclass(frozen=True)
class Task:
    """One image or video to translate."""

    source: Path
    target: Path

    @property
    def is_video(self) -> bool:
        """By its name: what is in an image is found out when it is read."""
        return self.source.suffix.lower() in VIDEO_SUFFIXES


def plan_tasks(
    source: Path, output: Path, *, overwrite: bool = False, reconstruct: bool = False, faithfulness: bool = False
) -> list[Task]:
    """Lists what to translate, sorted by path.

    Args:
        source: An image, a video, a folder with them at any depth, or a glob pattern (``**`` for any folders). What
            exists under that very name is never taken for a pattern.
        output: Folder for the results, under the same names: below the folder, or below the part of the pattern that
            is fixed. Of one image or video it may be a file to write, whose suffix is that of an image or a video.
        overwrite: Whether results may be there already. The input never is overwritten.
        reconstruct: Whether each result has a grid, `grid_of`, too.
        faithfulness: Whether each result has maps, `maps_of`, too.

    Raises:
        UserError: There is no such input, the output is a file where a folder is wanted, or a result would replace an
            input, another result, or a file that exists.
    """
    root, paths = input_root(source), find_inputs(source, output)
    if names_file(output):
        _check_one_file(source, output, reconstruct, faithfulness)
    if source.is_dir() and _lies_in(output, source):
        raise UserError(f"{output} lies in the input folder {source}: choose an output folder outside it")
    tasks = [
        Task(path, output if names_file(output) else result_name(output / path.relative_to(root))) for path in paths
    ]
    inputs, results = Inputs(paths), _Results()
    for task in tasks:
        for target in (
            task.target,
            *([grid_of(task, output)] * reconstruct),
            *(maps_of(task, output).values() if faithfulness else ()),
        ):
            inputs.refuse(target)
            results.add(target, task.source)
    existing = [target for target in results.targets if target.exists()]
    if existing and not overwrite:
        kind = "file" if names_file(output) else "folder"
        raise UserError(_why_not_again(existing, len(results.targets), kind, may_resume=not faithfulness))
    return tasks


class Inputs:
    """The files that are read, by their names and by what the system knows them as.

    The same file may have several names: in another case, by a hard link, or where a folder is mounted twice.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._names = {path.resolve() for path in paths}
        self._numbers = {number for path in paths if (number := _number(path))}

    def __contains__(self, path: Path) -> bool:
        return path.resolve() in self._names or _number(path) in self._numbers

    def refuse(self, target: Path) -> None:
        """Refuses a result that would replace one of them.

        Raises:
            UserError: It would.
        """
        if target in self:
            raise UserError(f"{target} is one of the inputs and would be overwritten: choose another output folder")


class _Results:
    """The files that are written, and what each is the result of."""

    def __init__(self) -> None:
        self.targets: list[Path] = []
        # With their sources, by names without case and accents' form.
        self._found: dict[str, list[tuple[Path, Path]]] = {}

    def add(self, target: Path, source: Path) -> None:
        """Adds a result.

        Raises:
            UserError: It would take the place of another.
        """
        resolved = target.resolve()
        alike = self._found.setdefault(unicodedata.normalize("NFC", str(resolved)).casefold(), [])
        for other, of in alike:
            if other == resolved:
                raise UserError(f"{target} would be the result of {of} and {source}: translate them into two folders")
            if _are_one_name(other, resolved):
                raise UserError(
                    f"{target} and the result of {of} are one file, as the output's file system ignores case or the "
                    "form of letters: translate them into two folders"
                )
        alike.append((resolved, source))
        self.targets.append(target)


def _number(path: Path) -> tuple[int, int] | None:
    """What the system knows a file as; None if it does not exist, or the file system has no such numbers."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else None


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a path that need not exist is a folder, or lies in it, whatever name it goes by."""
    resolved, number = path.resolve(), _number(folder)
    return resolved.is_relative_to(folder.resolve()) or any(
        number is not None and _number(parent) == number for parent in (resolved, *resolved.parents)
    )


def _are_one_name(first: Path, second: Path) -> bool:
    """Whether a file system takes two names for one; it is tried out, in the folder that is there already."""
    folder = next(parent for parent in first.parents if parent.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".names-", dir=folder) as probe:
            for one, other in zip(first.parts, second.parts, strict=True):
                if one == other:
                    continue
                Path(probe, one).touch()
                if not Path(probe, other).exists():
                    return False
    except OSError:  # which those who write there report
        return False
    return True


def _why_not_again(existing: list[Path], count: int, kind: str, *, may_resume: bool) -> str:
    """What to do about those of `count` results that exist already."""
    if count == 1:
        return f"{existing[0]} exists already: choose another {kind}, or use --overwrite"
    if not may_resume:
        return (
            f"{existing[0]} exists already ({len(existing)} of {count} results): choose another folder, or --overwrite"
        )
    return (
        f"{existing[0]} exists already ({len(existing)} of {count} results): choose another folder, or use --resume "
        "(do the rest) or --overwrite"
    )


def names_file(output: Path) -> bool:
    """Whether an output is one file to write, by the suffix of an image or a video, and no folder."""
    known = output.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES or other_kind(output.name)
    return not output.is_dir() and (bool(known) or output.is_file())


def _check_one_file(source: Path, output: Path, reconstruct: bool, faithfulness: bool) -> None:
    """Refuses a file as output where the input is another kind of thing, or nothing writes such a file."""
    if source.is_dir() or not source.exists():
        kind = "a folder" if source.is_dir() else "a pattern"
        raise UserError(f"--output {output} names a file, but the input {source} is {kind}: name a folder")
    suffix, of_video = output.suffix.lower(), source.suffix.lower() in VIDEO_SUFFIXES
    known = OUTPUT_SUFFIXES if of_video else SUFFIXES
    if suffix not in known:
        what = "a video" if of_video else "an image"
        raise UserError(
            f"--output {output}: {what} is written as {', '.join(sorted(known))}: choose such a name, or a folder"
        )
    if reconstruct:
        raise UserError(f"--output {output} names a file, and --reconstruct writes a grid, too: name a folder")
    if faithfulness:
        raise UserError(f"--output {output} names a file, and --faithfulness writes scores, too: name a folder")


def grid_of(task: Task, output: Path) -> Path:
    """The file for the grid of an image, its translation and its reconstruction."""
    return _beside(task, output, RECONSTRUCTIONS)


def maps_of(task: Task, output: Path) -> dict[str, Path]:
    """The files for the maps of a translation, by the names of `evaluation.faithfulness.MAPS`."""
    return {name: _beside(task, output, FAITHFULNESS, name) for name in MAPS}


def _beside(task: Task, output: Path, *folders: str) -> Path:
    path = output.joinpath(*folders) / task.target.relative_to(output)
    return path.with_name(f"{path.name}.png")


def input_root(source: Path) -> Path:
    """Returns the folder that the names of results are relative to; of an input as for `plan_tasks`."""
    if source.is_dir():
        return source
    return source.parent if source.exists() else split_pattern(source)[0]


def find_inputs(source: Path, output: Path | None) -> list[Path]:
    """Returns the files to translate.

    Args:
        source: As for `plan_tasks`.
        output: Folder of the results of an earlier run, which do not match a pattern.

    Raises:
        UserError: There is no such input.
    """
    if source.is_dir():
        return list_images(source, SUFFIXES | VIDEO_SUFFIXES, links_outside="skip")
    if source.exists():
        return [source]
    refuse_url(source, "download it, and give the file")
    if not is_pattern(source):
        raise MissingFileError(f"{source} does not exist")
    below = None if output is None else output.resolve()
    matches = [path for path in match_files(source) if below is None or not path.resolve().is_relative_to(below)]
    if not matches:
        raise MissingFileError(
            f"{source} matches no file outside the output folder: correct the pattern, or give a folder"
        )
    return matches


P = TypeVar("P", bound=PurePath)


def result_name(path: P) -> P:
    """Returns the path of a result in place of that of its input: videos of some kinds become .mkv."""
    suffix = path.suffix.lower()
    return path.with_suffix(".mkv") if suffix in VIDEO_SUFFIXES - OUTPUT_SUFFIXES else path
