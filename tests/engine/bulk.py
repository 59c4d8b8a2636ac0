"""What the tests of bulk translation share: inputs, and how results are compared."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import fsspec
import pytest
import torch
from PIL import Image

from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.engine.translation.bulk.blocks import BlockResult
from cyclegan_fast.engine.translation.bulk.manifest import FOLDER, Manifest
from cyclegan_fast.engine.translation.bulk.storage import storage_at
from cyclegan_fast.nn import build_networks
from cyclegan_fast.translate import translate
from tests.data.sample_images import noise

SUFFIXES = ("png", "jpg", "tif", "webp")
INTERRUPTED = "interrupted: the same command does the rest\n"


def make_engine(folder: Path) -> Path:
    """A run with one checkpoint of the smallest networks."""
    torch.manual_seed(5)
    model = ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4)
    networks = build_networks(model)
    for parameter in networks.parameters():
        parameter.data.mul_(4.0)
    config = TrainConfig(model=model)
    save_checkpoint(folder / "checkpoints", 1, networks=networks, config=config, progress={"step": 1})
    return folder


def make_images(folder: Path, count: int = 13) -> Path:
    """Images of two sizes and four formats, in two folders, with EXIF."""
    exif = Image.Exif()
    exif[271] = "Maker"
    for i in range(count):
        path = folder / ("deep" if i % 3 else "") / f"{i:02d}.{SUFFIXES[i % 4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(24 + 8 * (i % 2), 20, i).save(path, exif=exif)
    return folder


def make_videos(folder: Path) -> Path:
    """A video with sound, one of a kind that becomes an .mkv, one that is cut off, and an image. Needs PyAV."""
    from tests.engine.test_video import write_video

    (folder / "deep").mkdir(parents=True)
    write_video(folder / "a.mp4", count=5, size=(24, 32), sound="aac")
    write_video(folder / "deep" / "b.avi", count=3, size=(17, 20), codec="mjpeg", pixels="yuvj444p")
    (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:2000])
    noise(24, 20, 0).save(folder / "0.png")
    return folder


def make_shard(path: Path, first: int, count: int = 5) -> Path:
    """A tar shard of images and labels; the same name twice, in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for i in [*range(first, first + count), first]:
            content = io.BytesIO()
            noise(16, 20, i).save(content, "PNG")
            add_member(shard, f"{i:04d}.png", content.getvalue())
            add_member(shard, f"{i:04d}.cls", str(i).encode())
        add_member(shard, ".hidden/x.png", b"hidden")
    return path


def add_member(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    shard.addfile(entry, io.BytesIO(content))


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder that people see, by name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(".cyclegan_fast/")}


def members(shard: Path) -> list[tuple[str, bytes]]:
    """The members of a tar shard with their content, in order."""
    with tarfile.open(shard) as opened:
        return [(member.name, opened.extractfile(member).read()) for member in opened]  # type: ignore[union-attr]


def records(output: Path | str) -> list[dict]:
    """The records of the manifest, without the settings, and without lines that a kill cut off."""
    there = storage_at(output)
    files = [name for name in there.list_names(FOLDER) if name.endswith(".jsonl")]
    lines = [line for name in files for line in there.read(name).splitlines() if line.endswith(b"}")]
    return [record for record in map(json.loads, lines) if "done" in record]


def failing(monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, times: int, end: str = "") -> Counter[str]:
    """Lets the first requests for each path of a memory file system fail; returns how many there were for each.

    Args:
        monkeypatch: The fixture.
        method: The method of the request.
        error: What it raises.
        times: How many fail.
        end: Of the paths.
    """
    memory, requests = type(fsspec.filesystem("memory")), Counter()
    plain = getattr(memory, method)

    def fails(self: object, *words: object, **options: object) -> object:
        path = str(words[method == "put_file"])
        requests[path] += 1
        if path.endswith(end) and requests[path] <= times:
            raise error
        return plain(self, *words, **options)

    monkeypatch.setattr(memory, method, fails)
    return requests


def interrupt_after(monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    """Interrupts the next bulk translation once as many blocks are recorded, as Ctrl-C does; later ones go on."""
    add, left = Manifest.add, [blocks]

    def interrupting(self: Manifest, result: BlockResult) -> None:
        add(self, result)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Manifest, "add", interrupting)


def run(engine: Path, source: Path | str, output: Path | str, **options: object) -> int:
    """Translates on one thread, two images at a time; returns the status."""
    settings = {"device": "cpu", "direction": "AtoB", "threads": 1, "batch_size": 2} | options
    return translate(engine=engine, input=Path(source), output=Path(output), **settings)  # type: ignore[arg-type]
