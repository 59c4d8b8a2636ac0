"""What results keep of the metadata of their inputs, read by Pillow and tifffile."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from cyclegan_fast.images.decode import decode
from cyclegan_fast.images.encode import encode_as
from cyclegan_fast.images.metadata import Change, LeftOut, MetadataRules, carry_over, metadata_for
from tests.data.sample_images import needs_deep, noise, with_chunk
from tests.images.tiff_writer import append_directory, exif

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="a horse">'
    b"<exif:PixelXDimension>40</exif:PixelXDimension></rdf:Description></x:xmpmeta>"
)
THUMBNAIL, NOTES = b"\xff\xd8 what the input looked like", b"of the maker, with a preview"
SAME = Change((40, 24), (40, 24), 3)
KINDS = ["JPEG", "PNG", "WEBP", "TIFF"]
EXPOSURE = {33434: ("r", [(1, 250)]), 40961: ("H", [1])}
TITLE = "un cheval".encode("utf-16-le")


def camera(*, big_endian: bool = False, orientation: int = 6) -> bytes:
    """EXIF of a photograph, with a thumbnail."""
    return exif(
        {271: ("s", "Maker"), 274: ("H", [orientation]), 306: ("s", "2024:01:02 03:04:05"), 40091: ("u", TITLE)},
        inner={
            34665: {
                33434: ("r", [(1, 250)]),
                40961: ("H", [1]),
                37500: ("u", NOTES),
                40962: ("I", [24]),
                37396: ("H", [3, 4, 5, 6]),
            },
            34853: {1: ("s", "N"), 2: ("r", [(47, 1), (30, 1), (123, 10)])},
        },
        thumbnail=THUMBNAIL,
        big_endian=big_endian,
    )


def source(folder: Path, kind: str, **more: object) -> Path:
    """An image that lies on its side, with all the metadata that Pillow writes into its format."""
    path = folder / f"source.{kind.lower()}"
    options = {"icc_profile": PROFILE, "exif": b"Exif\0\0" + camera(), "dpi": (300, 150)} | more
    noise(24, 40).save(path, kind, **options)
    return path


def over(plain: bytes, kind: str, path: Path, change: Change = SAME, **rules) -> tuple[bytes, LeftOut]:
    """The bytes with the metadata of a file, and what they lack."""
    metadata = metadata_for(path, MetadataRules(**rules))
    content = carry_over(plain, kind, metadata, change, MetadataRules(**rules))
    return content, metadata.left_out


def carried(path: Path, kind: str, change: Change = SAME, **rules):
    """The result as Pillow opens it, its bytes, and what it lacks."""
    width, height = change.output_size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, change.channels), dtype=np.uint8)
    plain = encode_as(kind, pixels)
    content, left_out = over(plain, kind, path, change, **rules)
    image, without = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(plain))
    image.load()
    assert image.format == without.format and np.array_equal(np.asarray(image), np.asarray(without))
    return image, content, left_out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["JPEG", "PNG", "WEBP"])
def test_profile_exif_and_xmp_in_every_format(tmp_path: Path, of: str, kind: str) -> None:
    path = source(tmp_path, of, **({} if of == "PNG" else {"xmp": XMP}))
    if of == "PNG":
        path.write_bytes(with_chunk(path.read_bytes(), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP))
    made, content, left_out = carried(path, kind)
    assert made.info["icc_profile"] == PROFILE
    found = made.getexif()
    assert (found[271], found[274], found[40091]) == ("Maker", 1, TITLE)
    assert found.get_ifd(ExifTags.IFD.Exif)[33434] == 1 / 250
    assert found.get_ifd(ExifTags.IFD.Exif)[40962] == 40 and found.get_ifd(ExifTags.IFD.Exif)[40961] == 1
    assert found.get_ifd(ExifTags.IFD.GPSInfo) == {1: "N", 2: (47, 30, 12.3)}
    xmp = bytes(made.info["xmp"])
    assert b'tiff:Orientation="1"' in xmp and b"<exif:PixelXDimension>40<" in xmp and b'dc:title="a horse"' in xmp
    assert THUMBNAIL not in content and NOTES not in content and 37396 not in found.get_ifd(ExifTags.IFD.Exif)
    assert left_out.lost == ()
    assert len(left_out.by_rule) == 2 and "thumbnail" in left_out.by_rule[0] and "pixels" in left_out.by_rule[1]


@pytest.mark.parametrize("kind", [*KINDS, "BMP"])
@pytest.mark.parametrize("of", ["JPEG", "PNG", "TIFF", "BMP"])
def test_the_resolution_turns_and_grows_with_the_image(tmp_path: Path, of: str, kind: str) -> None:
    path = source(tmp_path, of)
    sideways = of != "BMP"  # which has no orientation
    change = Change((40, 24) if sideways else (24, 40), (80, 72) if sideways else (48, 120), 3)
    made, _, _ = carried(path, kind, change)
    expected = (150 * 2, 300 * 3) if sideways else (300 * 2, 150 * 3)
    dpi = made.info["dpi"] if kind != "WEBP" else _dpi_of_exif(made)
    assert np.allclose(np.array(dpi, float), np.array(expected), rtol=2e-4), dpi


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("resolution", "unit"), [((1e8, 5e7), 2), ((4, 3.5), 1)])
def test_a_resolution_that_a_header_cannot_hold_is_in_exif(tmp_path: Path, kind: str, resolution: tuple, unit: int):
    path, (x, y) = tmp_path / "a.tif", resolution
    noise(40, 24).save(path, x_resolution=x, y_resolution=y, resolution_unit=unit)
    made, _, left_out = carried(path, kind)
    found = made.getexif()
    assert (found[282], found[283], found[296]) == (x, y, unit) and left_out == LeftOut()
    assert not made.info.get("aspect")


def test_a_resolution_that_no_format_can_hold_is_named(tmp_path: Path) -> None:
    noise(40, 24).save(tmp_path / "a.tif", dpi=(1e8, 1e8))
    assert carried(tmp_path / "a.tif", "BMP")[2].lost == ("a resolution that BMP cannot hold",)
    _, _, left_out = carried(tmp_path / "a.tif", "TIFF", Change((1, 1), (40, 24), 3))  # 4e9 pixels to the inch
    assert left_out.lost == ("a resolution that no format can hold",)


@needs_deep
@pytest.mark.parametrize(("kind", "channels"), [("PNG", 3), ("PNG", 4), ("TIFF", 3), ("TIFF", 4), ("TIFF", 5)])
def test_16_bits_and_more_channels(tmp_path: Path, kind: str, channels: int) -> None:
    import imagecodecs
    import tifffile

    pixels = np.random.default_rng(0).integers(0, 65536, (24, 40, channels), dtype=np.uint16)
    change = Change((40, 24), (40, 24), channels)
    content, left_out = over(encode_as(kind, pixels), kind, source(tmp_path, "JPEG"), change)
    if kind == "PNG":
        assert np.array_equal(imagecodecs.png_decode(content), pixels)
        assert Image.open(io.BytesIO(content)).info["icc_profile"] == PROFILE
        return
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0]
        assert len(file.pages) == 1 and np.array_equal(page.asarray(), pixels)
        assert page.tags[271].value == "Maker" and page.tags[282].value == (150, 1)
        assert (34675 in page.tags) == (channels != 5)
    assert ("a colour profile of other colours than the result's" in left_out.lost) == (channels == 5)


def test_bytes_of_big_endian_tags(tmp_path: Path) -> None:
    path = source(tmp_path, "JPEG", exif=b"Exif\0\0" + camera(big_endian=True))
    for kind in KINDS:
        found = carried(path, kind)[0].getexif()
        assert (found[271], found[274], found[40091]) == ("Maker", 1, TITLE)
        assert found.get_ifd(ExifTags.IFD.Exif)[33434] == 1 / 250
        assert found.get_ifd(ExifTags.IFD.GPSInfo)[2] == (47, 30, 12.3)


def test_a_profile_is_kept_for_its_own_colours_only(tmp_path: Path) -> None:
    grey = Change((40, 24), (40, 24), 1)
    for kind in KINDS:
        made, _, left_out = carried(source(tmp_path, "PNG"), kind, grey)
        assert "icc_profile" not in made.info and 40961 not in made.getexif().get_ifd(ExifTags.IFD.Exif)
        assert left_out.lost == ("a colour profile of other colours than the result's",)
    of_grey = PROFILE[:16] + b"GRAY" + PROFILE[20:]
    made, _, left_out = carried(source(tmp_path, "JPEG", icc_profile=of_grey), "JPEG", grey)
    assert made.info["icc_profile"] == of_grey and left_out.lost == ()
    with_alpha = Change((40, 24), (40, 24), 4)
    assert carried(source(tmp_path, "PNG"), "PNG", with_alpha)[0].info["icc_profile"] == PROFILE
    assert carried(source(tmp_path, "WEBP"), "WEBP", with_alpha)[0].mode == "RGBA"


def test_what_the_numbers_of_a_png_mean(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise(40, 24).save(path)
    content = with_chunk(path.read_bytes(), b"gAMA", struct.pack(">I", 100000))
    content = with_chunk(content, b"cICP", bytes((9, 16, 0, 1)))
    path.write_bytes(with_chunk(content, b"tEXt", b"Author\0somebody"))
    made, result, left_out = carried(path, "PNG")
    assert made.info["gamma"] == 1.0 and made.info["Author"] == "somebody" and b"cICP\x09\x10\0\1" in result
    assert left_out == LeftOut()
    assert carried(path, "PNG", Change((40, 24), (40, 24), 1))[2].lost == (
        "the colour chunks of a PNG of other colours than the result's",
    )
    assert carried(path, "JPEG")[2].lost == (
        "the colour chunks of a PNG, which JPEG cannot hold",
        "texts of a PNG, which JPEG cannot hold",
    )


def test_comments_and_iptc(tmp_path: Path) -> None:
    noise(40, 24).save(tmp_path / "a.gif", comment=b"of a gif" * 99)
    assert carried(tmp_path / "a.gif", "GIF")[0].info["comment"] == b"of a gif" * 99
    path = source(tmp_path, "JPEG", comment=b"of a jpeg")
    caption = b"\x1c\x02\x78\x00\x07a horse"
    resources = b"8BIM\x04\x0c\0\0" + struct.pack(">I", len(THUMBNAIL)) + THUMBNAIL + bytes(len(THUMBNAIL) % 2)
    resources += b"8BIM\x04\x04\0\0" + struct.pack(">I", len(caption)) + caption
    segment = b"Photoshop 3.0\0" + resources
    content = path.read_bytes()
    path.write_bytes(content[:20] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + content[20:])
    made, result, _ = carried(path, "JPEG")
    assert made.info["comment"] == b"of a jpeg" and made.info["photoshop"] == {0x0404: caption}
    assert THUMBNAIL not in result
    assert carried(path, "TIFF")[0].tag_v2[33723] == caption  # type: ignore[attr-defined]
    assert carried(path, "WEBP")[2].lost == ("IPTC, which WEBP cannot hold", "a comment, which WEBP cannot hold")


def test_technical_is_what_shows_and_places_the_pixels_and_none_is_nothing(tmp_path: Path) -> None:
    path = source(tmp_path, "JPEG", xmp=XMP, comment=b"by somebody")
    for kind in KINDS:
        made, content, left_out = carried(path, kind, which="technical")
        assert made.info["icc_profile"] == PROFILE and left_out == LeftOut()
        assert not any(word in content for word in (b"Maker", b"a horse", b"2024:01", b"somebody"))
        assert kind == "WEBP" or np.allclose(np.array(made.info["dpi"], float), (150, 300), rtol=2e-4)
        plain, content, left_out = carried(path, kind, which="none")
        assert "icc_profile" not in plain.info and left_out == LeftOut() and b"Maker" not in content


def test_what_a_format_cannot_hold_is_named(tmp_path: Path) -> None:
    path = source(tmp_path, "JPEG", xmp=XMP)
    assert carried(path, "BMP")[2].lost == (
        "a colour profile, which BMP cannot hold", "EXIF, which BMP cannot hold", "XMP, which BMP cannot hold",
    )  # fmt: skip
    lost = carried(path, "PPM")[2].lost
    assert len(lost) == 4 and all(reason.endswith(", which PPM cannot hold") for reason in lost)
    long = with_chunk(source(tmp_path, "PNG").read_bytes(), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<" + b"x" * 70_000)
    (tmp_path / "long.png").write_bytes(long)
    assert carried(tmp_path / "long.png", "PNG")[2].lost == ()
    assert carried(tmp_path / "long.png", "JPEG")[2].lost == (
        "EXIF, XMP, IPTC or a comment of more than 64 kB, which JPEG cannot hold",
    )


def test_xmp_turns_what_it_turns_in_reading_and_nothing_else(tmp_path: Path) -> None:
    for quote, size, dpi in ((b'"', (40, 24), (150, 300)), (b"'", (24, 40), (300, 150))):
        path = source(tmp_path, "JPEG", exif=b"", xmp=XMP.replace(b'"6"', quote + b"6" + quote))
        assert decode(path, 3).size == size
        assert np.allclose(carried(path, "JPEG", Change(size, size, 3))[0].info["dpi"], dpi)


def test_exif_of_several_segments_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    """The first says how the image lies; a large one goes on in the next."""
    path = source(tmp_path, "JPEG", exif=b"")
    content = path.read_bytes()
    text = "a long story " * 9000
    large = exif({274: ("H", [6]), 270: ("s", text), 271: ("s", "Maker")})
    for blocks in ((camera(orientation=6), camera(orientation=1)), (large[:65_000], large[65_000:])):
        segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block for block in blocks)
        path.write_bytes(content[:20] + segments + content[20:])
        assert decode(path, 3).size == (40, 24)
        made, _, left_out = carried(path, "PNG")
        assert np.allclose(made.info["dpi"], (150, 300), rtol=1e-3)
        assert made.getexif()[271] == "Maker" and left_out.lost == ()
    assert made.getexif()[270] == text


def test_a_webp_without_metadata_stays_as_it_is_encoded(tmp_path: Path) -> None:
    noise(40, 24).save(tmp_path / "a.png")
    _, content, left_out = carried(tmp_path / "a.png", "WEBP")
    assert b"VP8X" not in content and left_out == LeftOut()


@pytest.mark.parametrize(
    "part", [b"<xmpGImg:image>/9j/4AAQ</xmpGImg:image>", b'xmpNote:HasExtendedXMP="1"', b'hdrgm:Version="1.0"']
)
def test_xmp_about_other_parts_of_the_file_is_left_out(tmp_path: Path, part: bytes) -> None:
    made, _, left_out = carried(source(tmp_path, "JPEG", xmp=XMP + part), "JPEG")
    assert "xmp" not in made.info and any("XMP with a thumbnail" in reason for reason in left_out.by_rule)


def test_exif_as_text_of_older_programs(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise(24, 40).save(path)
    block = b"Exif\0\0" + camera()
    text = b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    body = b"Raw profile type exif\0\0" + zlib.compress(text)
    path.write_bytes(with_chunk(path.read_bytes(), b"zTXt", body))
    made, _, _ = carried(path, "PNG")
    assert made.getexif()[271] == "Maker" and made.getexif()[274] == 1
    assert "Raw profile type exif" not in made.info


def test_of_a_tiff_into_other_formats(tmp_path: Path) -> None:
    file = bytearray(encode_as("TIFF", np.asarray(noise(24, 40))))
    with Image.open(io.BytesIO(file)) as image:
        own = {code: ("H" if kind == 3 else "I", values) for code, kind, values in _tags(image)}
    own |= {
        270: ("s", "a field"),
        33432: ("s", "somebody"),
        700: ("u", XMP.replace(b'n="6', b'n="1')),
        34675: ("u", PROFILE),
    }
    own |= {33550: ("d", [10, 10, 0]), 33922: ("d", [0, 0, 0, 5e5, 5e6, 0]), 65000: ("s", "private")}
    append_directory(file, own, "<", 4)
    (tmp_path / "a.tif").write_bytes(file)
    change = Change((24, 40), (24, 40), 3)
    for kind in KINDS:
        made, _, left_out = carried(tmp_path / "a.tif", kind, change)
        assert made.info["icc_profile"] == PROFILE and b"a horse" in bytes(made.info["xmp"])
        assert (made.getexif()[270], made.getexif()[33432]) == ("a field", "somebody")
        assert left_out.lost == (() if kind == "TIFF" else (f"the georeference, which {kind} cannot hold",))
        assert len(left_out.by_rule) == 1 and "private tags" in left_out.by_rule[0]
        assert (33550 in made.getexif()) == (kind == "TIFF")


def _dpi_of_exif(image: Image.Image) -> list[float]:
    found = image.getexif()
    return [float(found[code]) * {2: 1, 3: 2.54}[found[296]] for code in (282, 283)]


def _tags(image: Image.Image):
    """Number, type and values of the tags of a TIFF."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    for code in tags:
        value = tags[code]
        yield code, tags.tagtype[code], value if isinstance(value, tuple) else (value,)
