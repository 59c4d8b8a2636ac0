"""Damage in the middle of a JPEG, which Pillow decodes without a warning."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast import logs, ops
from cyclegan_fast.data.catalog.manifest import Manifest
from cyclegan_fast.images import jpeg_damage as jpeg
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.images.jpeg_damage import find_damage
from tests.data.flawed import photo
from tests.data.sample_images import noise

WAYS: list[dict[str, Any]] = [
    {},
    {"optimize": True},
    {"progressive": True},
    {"quality": 95, "subsampling": 0},
    {"subsampling": 1},
    {"restart_marker_blocks": 3},
    {"progressive": True, "restart_marker_rows": 1},
    {"quality": 20, "progressive": True},
]


compiled = pytest.mark.skipif(not ops.extension_available(), reason=str(ops.extension_error()))


def encoded(image: Image.Image, **way: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **way)
    return buffer.getvalue()


def decodes(content: bytes) -> bool:
    try:
        Image.open(io.BytesIO(content)).load()
    except (OSError, SyntaxError):
        return False
    return True


@compiled
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_sound_files_pass(way: dict[str, Any], mode: str) -> None:
    for width, height in ((1, 1), (8, 8), (17, 130), (131, 77)):
        for image in (photo(width, height, 0), noise(width, height), Image.new("RGB", (width, height), "red")):
            assert find_damage(encoded(image.convert(mode), **way)) is None


@compiled
@pytest.mark.parametrize("way", [{}, {"restart_marker_rows": 1}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("flaw", ["zeros", "gap"])
def test_much_silent_damage_is_found(way: dict[str, Any], flaw: str) -> None:
    """Not all of it: some leaves a sound stream of codes, with other pixels."""
    content, rng = encoded(photo(256, 256, 5), quality=88, **way), np.random.default_rng(0)
    silent = found = 0
    for _ in range(40):
        at = int(rng.integers(800, len(content) - 300))
        damaged = content[:at] + (bytes(60) if flaw == "zeros" else b"") + content[at + 60 :]
        if decodes(damaged):  # the others are found by anyone
            silent += 1
            found += find_damage(damaged) is not None
    assert silent > 25 and found / silent > 0.6


@compiled
def test_headers_that_make_no_sense() -> None:
    content = encoded(photo(64, 64, 1))
    scan = content.index(b"\xff\xda")
    unknown_component = content[: scan + 5] + b"\x77" + content[scan + 6 :]
    assert find_damage(unknown_component) == "a header inside the file makes no sense"
    for end in range(2, len(content), 7):  # nothing escapes but a sentence
        find_damage(content[:end])


@compiled
def test_restarts_out_of_order() -> None:
    content = encoded(photo(64, 64, 1), restart_marker_rows=1)
    assert find_damage(content.replace(b"\xff\xd1", b"\xff\xd5")) == "restart markers are out of order"
    assert "3 restart intervals where 4 belong" in (find_damage(content.replace(b"\xff\xd1", b"")) or "")


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Damage as disks and networks do it, and as nobody does: to the headers too, and none but random bytes."""
    file, kind = bytearray(content), int(rng.integers(8))
    if kind == 7:
        return b"\xff\xd8" + rng.bytes(int(rng.integers(3000)))
    start, length = int(rng.integers(2, len(file))), int(rng.integers(1, 60))
    header = int(rng.integers(2, content.index(b"\xff\xda") + 14))
    if kind == 0:
        file[start : start + length] = bytes(len(file[start : start + length]))
    elif kind == 1:
        file[start] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del file[start : start + length]
    elif kind == 3:
        file[start:start] = rng.bytes(length)
    elif kind == 4:
        del file[start:]
    elif kind == 5:
        file[start:start] = bytes(
            [0xFF, int(rng.choice([0, 0xC0, 0xC2, 0xC4, 0xD0, 0xD1, 0xD9, 0xDA, 0xDB, 0xDD, 0xFF]))]
        )
    else:
        file[header] = int(rng.choice([0, 1, 2, 16, 17, 64, 255, rng.integers(256)]))
    return bytes(file)


@compiled
def test_any_bytes_give_a_sentence_or_none() -> None:
    rng, found = np.random.default_rng(0), set[str | None]()
    for way in WAYS:
        for mode in ("L", "RGB", "CMYK"):
            content = encoded(photo(70, 45, 2).convert(mode), **way)
            found |= {find_damage(mutated(content, rng)) for _ in range(100)}
    assert len(found) > 8 and all(reason is None or reason.isprintable() for reason in found)


@compiled
def test_zeros_behind_the_pixels_are_padding() -> None:
    content = encoded(photo(64, 64, 1))
    assert find_damage(content[:-2] + bytes(7) + content[-2:]) is None
    assert find_damage(content[:-2] + b"left" + content[-2:]) == "coded pixels are left over"


def test_without_the_extension_the_check_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    photo(64, 64, 1).save(tmp_path / "0.jpg")
    monkeypatch.setattr(jpeg, "_scan", None)
    monkeypatch.setattr(logs, "_reported", set())
    with caplog.at_level(logging.WARNING, "cyclegan_fast"):
        for _ in range(2):
            Manifest(tmp_path).probe([ImageFile(str(tmp_path / "0.jpg"))])
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("JPEGs are not checked for damage in the middle")
    index = Manifest(tmp_path)
    index.probe([ImageFile(str(tmp_path / "0.jpg"))])
    assert index.save()
    monkeypatch.undo()
    again = Manifest(tmp_path)  # what was read without the scan is read again with it
    again.probe([ImageFile(str(tmp_path / "0.jpg"))])
    assert again.files_read == int(ops.extension_available())


@compiled
def test_headers_that_no_encoder_writes() -> None:
    content = encoded(photo(64, 64, 1))
    frame, table = content.index(b"\xff\xc0"), content.index(b"\xff\xc4")
    assert find_damage(content[: frame + 4] + b"\x0c" + content[frame + 5 :]) is None  # 12 bits: the decoder refuses
    assert find_damage(content[: frame + 1] + b"\xc9" + content[frame + 2 :]) is None  # arithmetic coding
    cut_off = content[: table + 5] + b"\xff" * 16 + content[table + 21 :]  # more codes than symbols
    assert find_damage(cut_off) == "a header inside the file makes no sense"
    assert find_damage(b"") is find_damage(b"\xff") is find_damage(b"\xff\xd8\xff") is None
