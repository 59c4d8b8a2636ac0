"""Damaged and hostile metadata: the pixels are read all the same, it is left out and named, and takes no memory."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cyclegan_fast.images.decode import read_unscaled
from cyclegan_fast.images.encode import encode_as
from cyclegan_fast.images.metadata import KEEP, Change, read_metadata
from cyclegan_fast.images.tiff_rows import TiffRows
from tests.data.sample_images import noise, with_chunk
from tests.images.test_metadata import PROFILE, XMP, camera, over
from tests.images.tiff_writer import append_directory, exif, tiff

PIXELS = np.asarray(noise(40, 24))
CHANGE = Change((40, 24), (40, 24), 3)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise(40, 24).save(buffer, kind)
    return buffer.getvalue()


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    content = encoded("JPEG")
    more = b"".join(b"\xff" + struct.pack(">BH", kind, len(body) + 2) + body for kind, body in segments)
    return content[:20] + more + content[20:]


def with_exif(block: bytes) -> bytes:
    return jpeg((0xE1, b"Exif\0\0" + block))


def entry(code: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", code, kind, count, value)


def directory(*entries: bytes, count: int | None = None) -> bytes:
    return (
        b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries) if count is None else count) + b"".join(entries) + bytes(4)
    )


def png(kind: bytes, body: bytes) -> bytes:
    return with_chunk(encoded("PNG"), kind, body)


def webp(block: bytes) -> bytes:
    buffer = io.BytesIO()
    noise(40, 24).save(buffer, "WEBP", lossless=True, exif=block)
    return buffer.getvalue()


def tiff_with(code: int, kind: int, count: int, value: int) -> bytes:
    """A TIFF with an entry of which nothing need be true."""
    content = bytearray(tiff(PIXELS, 8, "rgb"))
    (start,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, start)
    body = content[start + 2 : start + 2 + 12 * entries]
    struct.pack_into("<I", content, 4, len(content))
    return bytes(content + struct.pack("<H", entries + 1) + body + entry(code, kind, count, value) + bytes(4))


FILES: dict[str, Callable[[], bytes]] = {
    "EXIF without a header.jpg": lambda: with_exif(b"nothing of the kind"),
    "empty EXIF.jpg": lambda: with_exif(b""),
    "EXIF far away.jpg": lambda: with_exif(b"II*\0\xf0\xff\xff\xff"),
    "EXIF of 65535 tags.jpg": lambda: with_exif(directory(count=65535) + bytes(65_000 - 12)),
    "huge count.jpg": lambda: with_exif(directory(entry(271, 2, 2**32 - 1, 8))),
    "value outside.jpg": lambda: with_exif(directory(entry(271, 2, 100, 2**31))),
    "unknown type.jpg": lambda: with_exif(directory(entry(271, 99, 1, 0), entry(274, 99, 1, 6))),
    "circle.jpg": lambda: with_exif(directory(entry(34665, 4, 1, 8), entry(34853, 4, 1, 8))),
    "inner outside.jpg": lambda: with_exif(directory(entry(34665, 4, 1, 2**32 - 2))),
    "cut EXIF.jpg": lambda: with_exif(camera()[:150]),
    "cut EXIF.png": lambda: png(b"eXIf", camera()[:150]),
    "EXIF without a header.png": lambda: png(b"eXIf", b"nothing of the kind"),
    "EXIF without a header.webp": lambda: webp(b"nothing of the kind"),
    "profile cut.jpg": lambda: jpeg((0xE2, b"ICC_PROFILE\0\1\2" + PROFILE[:200])),
    "profile of nothing.jpg": lambda: jpeg((0xE2, b"ICC_PROFILE\0\1\1" + bytes(500))),
    "profile not packed.png": lambda: png(b"iCCP", b"ICC\0\0" + PROFILE),
    "profile without an end.png": lambda: png(b"iCCP", b"ICC\0\0" + zlib.compress(bytes(10**8))),
    "100 MB of text.png": lambda: png(b"iTXt", b"Comment\0\0\0\0\0" + bytes(10**8)),
    "100 MB of packed text.png": lambda: png(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**8))),
    "100 MB of XMP.png": lambda: png(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(10**8))),
    "EXIF as no text.png": lambda: png(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 8\nzz")),
    "XMP with zeros.jpg": lambda: jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(100) + b"<x/>")),
    "huge count.tif": lambda: tiff_with(33550, 12, 2**31, 8),
    "georeference outside.tif": lambda: tiff_with(33922, 12, 6, 2**31),
    "profile outside.tif": lambda: tiff_with(34675, 7, 5000, 2**32 - 10),
    "inner outside.tif": lambda: tiff_with(34665, 4, 1, 2**32 - 2),
    "inner circle.tif": lambda: tiff_with(34853, 4, 1, 4),
}


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_are_read_and_the_metadata_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name]())
    tracemalloc.start()
    plain = encode_as("PNG", PIXELS)
    content, left_out = over(plain, "PNG", path, CHANGE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left_out.lost or name == "circle.jpg", "whose directories are taken for private tags of each other"
    assert all("damaged" in reason or "too large" in reason for reason in left_out.lost), left_out
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), PIXELS)
    assert peak < 50 * 2**20
    expected = PIXELS if path.suffix != ".jpg" else np.asarray(Image.open(io.BytesIO(encoded("JPEG"))))
    assert np.array_equal(read_unscaled(path, 3), expected)


@pytest.mark.parametrize("kind", [b"eXIf", b"iCCP", b"tEXt", b"pHYs", b"mDCV", b"vpAg"])
def test_a_chunk_with_a_wrong_check_sum(tmp_path: Path, kind: bytes) -> None:
    bodies = {b"eXIf": camera(), b"iCCP": b"ICC\0\0" + zlib.compress(PROFILE), b"tEXt": b"Author\0me"}
    body = bodies.get(kind, bytes(9))
    content = bytearray(png(kind, body))
    at = content.index(kind) + 4 + len(body)
    content[at] ^= 1
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert np.array_equal(read_unscaled(path, 3), PIXELS)
    assert read_metadata(path).lost == [f"chunk {kind.decode()} of a PNG: damaged"]


def tagged_tiff() -> bytes:
    file = bytearray(tiff(PIXELS, 8, "rgb"))
    own = {256: ("I", [40]), 257: ("I", [24]), 258: ("H", [8] * 3), 262: ("H", [2]), 277: ("H", [3])}
    own |= {273: ("I", [8]), 278: ("I", [24]), 279: ("I", [PIXELS.size]), 270: ("s", "a field"), 700: ("u", XMP)}
    own |= {33550: ("d", [10, 10, 0]), 33922: ("d", [0, 0, 0, 5e5, 5e6, 0]), 34675: ("u", PROFILE)}
    own |= {34735: ("H", [1, 1, 0, 1, 1025, 0, 1, 2]), 42112: ("s", "<Item name='a' sample='0'>b</Item>")}
    append_directory(file, own, "<", 4)
    return bytes(file)


WHOLE = {
    ".jpg": lambda: jpeg(
        (0xE1, b"Exif\0\0" + camera()),
        (0xE2, b"ICC_PROFILE\0\1\1" + PROFILE),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\4\4" * 9),
    ),
    ".png": lambda: with_chunk(png(b"eXIf", camera()), b"iCCP", b"ICC\0\0" + zlib.compress(PROFILE)),
    ".webp": lambda: webp(camera()),
    ".tif": tagged_tiff,
    ".gif": lambda: b"GIF89a\x01\0\x01\0\0\0\0!\xfe\5hello\0;",
    ".bmp": lambda: encoded("BMP")[:200],
}


PLAIN = {
    kind: encode_as(kind, np.zeros((48, 80, 3), np.uint8)) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")
}


@pytest.mark.parametrize("suffix", WHOLE)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_bytes_end_it(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    """Calls the reader and the rules themselves, which `carry_over` guards once more."""
    from cyclegan_fast.images.metadata import carry

    content = bytearray(WHOLE[suffix]())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(content), 2500) - 1))
        value = data.draw(
            st.sampled_from([b"\0", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x01", b"\x80", b"II", b"MM"])
        )
        content[at : at + len(value)] = value
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    for kind in PLAIN:
        metadata = read_metadata(path)
        change = Change((40, 24), (80, 48), 3)
        carry._adapt(metadata, change, KEEP)
        carry._drop_what_has_no_room(metadata, kind)
        made = carry._embedded(PLAIN[kind], kind, metadata, change)
        Image.open(io.BytesIO(made)).load()


def test_exif_is_read_in_any_number_of_directories() -> None:
    """The writer of the tests itself: what it makes of EXIF is EXIF."""
    found = Image.Exif()
    found.load(exif({271: ("s", "Maker")}, inner={34853: {1: ("s", "N")}}, big_endian=True))
    assert found[271] == "Maker" and found.get_ifd(34853) == {1: "N"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", [1, 2, 7], ids=["bytes", "text", "undefined"])
def test_xmp_of_a_tiff_in_any_type_turns_nothing(tmp_path: Path, channels: int, dtype: type, kind: int) -> None:
    """Its own tag alone does, for whoever reads it; Pillow fails at text, and turns by the rest."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, channels)).astype(dtype)
    tag = (700, kind, len(XMP), XMP, True)
    options = {"photometric": "rgb" if channels == 3 else "minisblack", "metadata": None, "extratags": [tag]}
    tifffile.imwrite(tmp_path / "a.tif", pixels if channels == 3 else pixels[..., 0], **options)
    assert np.array_equal(read_unscaled(tmp_path / "a.tif", channels), pixels)
    rows = TiffRows(tmp_path / "a.tif", channels)
    assert np.array_equal(rows.pixels(0, 24), pixels)
    rows.close()
    found = read_metadata(tmp_path / "a.tif")
    assert found.xmp.rstrip(b"\0") == XMP and not found.is_turned
