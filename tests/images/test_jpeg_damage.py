"""Damage in the middle of a JPEG, which Pillow decodes without a word; found by the extension and by its reference."""

import collections
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast import ops
from cyclegan_fast.images import jpeg_damage as jpeg
from cyclegan_fast.images.jpeg_damage import find_damage, find_damage_reference
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


@pytest.fixture(params=["compiled", "reference"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `find_damage` take the extension, then its reference."""
    if request.param == "reference":
        monkeypatch.setattr(jpeg, "_compiled", None)
    elif not ops.extension_available():
        pytest.skip(str(ops.extension_error()))


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


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_sound_files_pass(way: dict[str, Any], mode: str) -> None:
    for width, height in ((1, 1), (8, 8), (17, 130), (131, 77)):
        for image in (photo(width, height, 0), noise(width, height), Image.new("RGB", (width, height), "red")):
            assert find_damage(encoded(image.convert(mode), **way)) is None


@pytest.mark.usefixtures("either")
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


@pytest.mark.usefixtures("either")
def test_headers_that_make_no_sense() -> None:
    content = encoded(photo(64, 64, 1))
    scan = content.index(b"\xff\xda")
    unknown_component = content[: scan + 5] + b"\x77" + content[scan + 6 :]
    assert find_damage(unknown_component) == "a header inside the file makes no sense"
    for end in range(2, len(content), 7):  # nothing escapes but a sentence
        find_damage(content[:end])


@pytest.mark.usefixtures("either")
def test_restarts_out_of_order() -> None:
    content = encoded(photo(64, 64, 1), restart_marker_rows=1)
    assert find_damage(content.replace(b"\xff\xd1", b"\xff\xd5")) == "restart markers are out of order"
    assert "stretches of coded pixels" in (find_damage(content.replace(b"\xff\xd1", b"")) or "")


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


@pytest.mark.skipif(not ops.extension_available(), reason=str(ops.extension_error()))
def test_extension_and_reference_say_the_same() -> None:
    rng, said = np.random.default_rng(0), collections.Counter[str | None]()
    for way in WAYS:
        for mode in ("L", "RGB", "CMYK"):
            for width, height in ((9, 8), (70, 45)):
                content = encoded(photo(width, height, 2).convert(mode), **way)
                for damaged in [content, *(mutated(content, rng) for _ in range(60))]:
                    expected = find_damage_reference(damaged)
                    assert find_damage(damaged) == expected, damaged.hex()
                    said[expected] += 1
    assert said.total() > 2000 and sum(count > 10 for count in said.values()) > 6, said


@pytest.mark.usefixtures("either")
def test_headers_that_no_encoder_writes() -> None:
    content = encoded(photo(64, 64, 1))
    frame, table = content.index(b"\xff\xc0"), content.index(b"\xff\xc4")
    assert find_damage(content[: frame + 4] + b"\x0c" + content[frame + 5 :]) is None  # 12 bits: the decoder refuses
    assert find_damage(content[: frame + 1] + b"\xc9" + content[frame + 2 :]) is None  # arithmetic coding
    cut_off = content[: table + 5] + b"\xff" * 16 + content[table + 21 :]  # more codes than symbols
    assert find_damage(cut_off) == "a header inside the file makes no sense"
    assert find_damage(b"") is find_damage(b"\xff") is find_damage(b"\xff\xd8\xff") is None
