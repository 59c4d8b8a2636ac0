"""Tar shards, unpacked for translation and packed again with the results."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cyclegan_fast.data.locations.shards import read_shard, tar_members
from cyclegan_fast.files import storage_errors
from cyclegan_fast.images.find import SUFFIXES, is_hidden_member
from cyclegan_fast.images.other_kinds import describe_others, other_kind


class Member(NamedTuple):
    """An image of a shard."""

    name: str
    offset: int
    """Of its first byte in the archive, which tells apart members of one name."""


def unpack(shard: Path, folder: Path) -> tuple[dict[Member, Path], str]:
    """Writes the images of a shard into a folder, under names of our own that keep their suffixes.

    Returns:
        The images with their files, and what is to be known of members that `pack` leaves out, such as videos.

    Raises:
        UserError: The archive is damaged, compressed, holds no image or has members that are refused.
    """
    images, others = read_shard(str(shard))
    unpacked: dict[Member, Path] = {}
    for i, image in enumerate(images):
        path = folder / f"{i}{PurePosixPath(image.member).suffix}"
        with storage_errors(f"cannot write {path}"):
            path.write_bytes(image.read())
        unpacked[Member(image.member, image.offset)] = path
    return unpacked, "leaves out {}, which are not read; {}".format(*describe_others(others)) if others else ""


def pack(shard: Path, target: Path, results: dict[int, Path]) -> None:
    """Writes a shard with the results in the place of the images; its bytes depend on nothing else.

    Labels and texts are copied. Images that have no result, those of kinds that are not read, and hidden members are
    left out.

    Args:
        shard: The shard of the images.
        target: The file to write.
        results: The files of the results, by the offsets of the images.
    """
    with (
        storage_errors(f"cannot write {target}"),
        tarfile.open(shard, "r:") as images,
        tarfile.open(target, "w:") as out,
    ):
        for member in tar_members(images):
            if not member.isreg() or is_hidden_member(member.name):
                continue
            entry = tarfile.TarInfo(member.name)
            entry.mtime, entry.mode = int(member.mtime), 0o644
            if member.offset_data in results:
                path = results[member.offset_data]
                entry.size = path.stat().st_size
                with path.open("rb") as file:
                    out.addfile(entry, file)
            elif PurePosixPath(member.name).suffix.lower() not in SUFFIXES and not other_kind(member.name):
                entry.size = member.size
                out.addfile(entry, images.extractfile(member))
