"""The metadata of every image of a data folder, stored beside the data in one file.

Both the check before training and `dataset check` come here. A file is read once, in worker processes; as long as its
length and its time of change stay the same, it costs one call of stat from then on. Files that cannot be used
are read again each time: what was wrong may have been the disk, or a decoder that has learned since.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, get_args, get_type_hints

import PIL

from cyclegan_fast.config import Depth
from cyclegan_fast.data.catalog.probe import VERSION, ImageMetadata, inspect
from cyclegan_fast.device import usable_cores
from cyclegan_fast.documents import DocumentError, Number, check, read_json
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import write_atomically
from cyclegan_fast.images.decode import BadImageError
from cyclegan_fast.images.find import OWN_FOLDER as FOLDER
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.images.jpeg_damage import why_not_scanned
from cyclegan_fast.logs import warn_once
from cyclegan_fast.monitoring.progress import Progress
from cyclegan_fast.processes import end_with_parent, main_left_alone

log = logging.getLogger(__name__)

FILE_NAME = "manifest.json"

Stamp = tuple[int, int]  # length in bytes, time of change in nanoseconds

_MAX_BYTES = 2**30  # of the file; 120 MB hold a million images
_MAX_SIDE = 2**24  # pixels of an image; more is no image's
_CHUNK = 16  # files that a process takes at a time
_SERIAL_UP_TO = 2 * _CHUNK  # files; so few are read before a process has started


class Manifest:
    """The metadata of the images below one folder.

    Args:
        folder: The data folder; None for images from anywhere, of which nothing is stored.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.path = None if folder is None else folder / FOLDER / FILE_NAME
        self.files_read = 0
        """Files whose content was read, because nothing or something else was known of them."""
        self._known = self._load()
        self._seen: dict[str, tuple[Stamp, ImageMetadata]] = {}

    def probe(
        self, files: Sequence[ImageFile], *, workers: int | None = None, progress: Progress | None = None
    ) -> list[ImageMetadata | BadImageError]:
        """Returns what is known of each image; new and changed ones are read.

        Args:
            files: The images.
            workers: Processes that read; by default as many as there are usable cores.
            progress: Takes how many of the new and changed images have been read.

        Raises:
            UserError: A process that reads was killed.
        """
        names = [str(file) if self.folder is None else name_in(self.folder, file) for file in files]
        stamps = [_stamp(file) for file in files]
        results: list[ImageMetadata | BadImageError | None] = []
        for name, stamp in zip(names, stamps, strict=True):
            known = self._known.get(name)
            results.append(known[1] if known is not None and known[0] == stamp else None)
            if known is not None and known[0] == stamp:
                self._seen[name] = known
        unread = [i for i, result in enumerate(results) if result is None]
        if unread and (reason := why_not_scanned()):
            warn_once(log, reason)
        found = _read_all([files[i] for i in unread], workers or usable_cores())
        for done, (i, result) in enumerate(zip(unread, found, strict=True), 1):
            results[i] = result
            self.files_read += 1
            if isinstance(result, ImageMetadata) and (stamp := stamps[i]) is not None:
                self._seen[names[i]] = stamp, result
            if progress is not None:
                progress(done, len(unread))
        return [result for result in results if result is not None]

    def exists(self) -> bool:
        """Whether the folder has a manifest already."""
        return self.path is not None and self.path.exists()

    def save(self, *, forget_others: bool = False) -> bool:
        """Writes the file; in a folder that cannot be written it logs that, and the next check reads everything again.

        Args:
            forget_others: Drop images that were not probed this time: they are gone.

        Returns:
            Whether it was written; a file that holds all this already is left alone.
        """
        if self.path is None:
            return False
        if self._seen.items() <= self._known.items() and (not forget_others or len(self._seen) == len(self._known)):
            return False
        self._known = self._seen if forget_others else self._known | self._seen
        entries = {name: [*stamp, *metadata] for name, (stamp, metadata) in self._known.items()}
        content = json.dumps({"made_by": _made_by(), "files": entries}, separators=(",", ":"))
        try:
            write_atomically(self.path, content.encode())
        except UserError as error:
            log.info("%s; the metadata is not stored, and the next check reads every image again", error)
            return False
        return True

    def _load(self) -> dict[str, tuple[Stamp, ImageMetadata]]:
        if self.path is None:
            return {}
        try:
            stored = read_json(self.path, _MAX_BYTES)
        except FileNotFoundError:
            return {}
        except (OSError, DocumentError) as error:
            log.warning("%s: cannot be used (%s); every image is read again", self.path, error)
            return {}
        try:
            check(stored, {"made_by": str, "files": {str: [object]}})
            if stored["made_by"] != _made_by():
                log.info("%s: made by another version; every image is read again", self.path)
                return {}
            return {name: (_stamp_of(entry[:2]), _metadata_of(entry[2:])) for name, entry in stored["files"].items()}
        except DocumentError:
            log.warning("%s: holds something else than a manifest; every image is read again", self.path)
            return {}


def name_in(folder: Path, file: ImageFile) -> str:
    """Returns the path of an image within a data folder, with slashes; the absolute path of one from elsewhere."""
    name, prefix = str(file), f"{folder}{os.sep}"
    if not name.startswith(prefix) and (str(folder) != "." or name.startswith(("/", ".."))):
        return os.path.abspath(name).replace(os.sep, "/")  # noqa: PTH100  100,000 of them
    return name.removeprefix(prefix).replace(os.sep, "/")


def _made_by() -> str:
    """What an entry depends on besides its file: the rules here, the decoder, and whether JPEGs were scanned."""
    return f"{VERSION}, Pillow {PIL.__version__}" + ", JPEGs not scanned" * bool(why_not_scanned())


def _metadata_of(values: list[Any]) -> ImageMetadata:
    if [type(value) for value in values] != _TYPES:
        raise DocumentError("an entry is none")
    metadata = ImageMetadata(*values)
    sides, channels = Number(1, _MAX_SIDE), Number(1, 2**20)
    check([metadata.width, metadata.height, metadata.depth], [sides], "width, height, depth")
    check([metadata.channels, metadata.frames], [channels], "channels, frames")
    check([metadata.low, metadata.high], [Number(whole=False)], "low, high")
    if metadata.values not in get_args(Depth):
        raise DocumentError("values is no depth")
    return metadata


def _stamp_of(values: list[Any]) -> Stamp:
    check(dict(enumerate(values)), {0: Number(), 1: Number()}, "length, time of change")
    return values[0], values[1]


_TYPES = [
    hint if isinstance(hint, type) else str for hint in get_type_hints(ImageMetadata).values()
]  # a Literal is a str


def _stamp(file: ImageFile) -> Stamp | None:
    """What changes when a file does; None for one that is gone."""
    try:
        status = os.stat(file.path)  # noqa: PTH116  100,000 of them: a Path each would take longer than the stat
    except OSError:
        return None
    return status.st_size if file.length < 0 else file.length, status.st_mtime_ns


def _read_all(files: Sequence[ImageFile], workers: int) -> Iterator[ImageMetadata | BadImageError]:
    """Yields what `_read` finds, in order."""
    if len(files) <= _SERIAL_UP_TO or workers == 1:
        yield from map(_read, files)
        return
    method = "fork" if sys.platform == "linux" else "spawn"  # a fork starts at once; its reading needs no torch
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        with main_left_alone():
            found = pool.map(_read, files, chunksize=_CHUNK)
        yield from found
    except BrokenProcessPool as error:
        raise UserError(
            "a process that read images was killed, perhaps for want of memory; what was read until then is stored: "
            "start again, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _read(file: ImageFile) -> ImageMetadata | BadImageError:
    try:
        return inspect(file)
    except BadImageError as error:
        return error


def _start_worker() -> None:
    """Interrupts are left to the parent, which ends its workers, or whose end they notice."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
