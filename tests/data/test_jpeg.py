"""Damage in the middle of a JPEG, which Pillow decodes without a word."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.data.jpeg import find_damage
from tests.data.flawed import photo
from tests.data.pictures import noise

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


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_sound_files_pass(way: dict[str, Any], mode: str) -> None:
    for width, height in ((1, 1), (8, 8), (17, 130), (131, 77)):
        for image in (photo(width, height, 0), noise(width, height), Image.new("RGB", (width, height), "red")):
            assert find_damage(encoded(image.convert(mode), **way)) is None


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
    assert silent > 25 and found / silent > (0.2 if "progressive" in way else 0.6)


def test_headers_that_make_no_sense() -> None:
    content = encoded(photo(64, 64, 1))
    scan = content.index(b"\xff\xda")
    unknown_component = content[: scan + 5] + b"\x77" + content[scan + 6 :]
    assert find_damage(unknown_component) == "a header inside the file makes no sense"
    for end in range(2, len(content), 7):  # nothing escapes but a sentence
        find_damage(content[:end])


def test_restarts_out_of_order() -> None:
    content = encoded(photo(64, 64, 1), restart_marker_rows=1)
    assert find_damage(content.replace(b"\xff\xd1", b"\xff\xd5")) == "restart markers are out of order"
    assert "stretches of coded pixels" in (find_damage(content.replace(b"\xff\xd1", b"")) or "")
