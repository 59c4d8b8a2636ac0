"""GeoTIFFs stay where they are on the earth, whatever becomes of their size; tifffile writes and reads them."""

import io
from pathlib import Path

import numpy as np
import pytest

from cyclegan_fast.images.encode import encode_as
from cyclegan_fast.images.metadata import Change, LeftOut
from tests.data.sample_images import needs_deep
from tests.images.test_metadata import over

pytestmark = needs_deep

KEYS = [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632]
OF_POINTS = [*KEYS[:11], 2, *KEYS[12:]]
PIXELS = (33550, 12, 3, (10.0, 20.0, 0.0), True)
TIES = (33922, 12, 6, (3.0, 2.0, 0.0, 500_000.0, 5_400_000.0, 7.0), True)
MATRIX = (34264, 12, 16, (9.0, 1.0, 0, 5e5, -2.0, -8.0, 0, 5e6, 0, 0, 0, 0, 0, 0, 0, 1.0), True)
POINTS = np.random.default_rng(0).uniform(0, 1000, (4, 6))
CONTROL = (33922, 12, 24, tuple(POINTS.ravel()), True)


def keys(numbers: list[int]) -> tuple[object, ...]:
    return 34735, 3, len(numbers), tuple(numbers), True


def geotiff(path: Path, *tags: tuple[object, ...], shape: tuple[int, int] = (24, 40), **options: object) -> Path:
    import tifffile

    options = {"photometric": "rgb", "metadata": None} | options
    tifffile.imwrite(path, np.zeros((*shape, 3), np.uint8), extratags=tags, **options)
    return path


def result(path: Path, width: int = 40, height: int = 24, channels: int = 3, **rules):
    """The tags of the result, by their numbers, and what it lacks."""
    import tifffile

    plain = encode_as("TIFF", np.zeros((height, width, channels), np.uint8))
    content, left_out = over(plain, "TIFF", path, Change((40, 24), (width, height), channels), **rules)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        return {tag.code: tag.value for tag in file.pages[0].tags}, left_out


def ground(tags: dict, column: float, row: float) -> np.ndarray:
    """Where a point of the image lies, in pixels from the corner of the first one, by the specification."""
    is_point = 2 in [tags[34735][i + 3] for i in range(4, len(tags[34735]), 4) if tags[34735][i] == 1025]
    i, j = (column - 0.5, row - 0.5) if is_point else (column, row)
    if 34264 in tags:
        return (np.array(tags[34264]).reshape(4, 4) @ (i, j, 0, 1))[:2]
    (dx, dy, _), (i0, j0, _, x0, y0, _) = tags[33550], tags[33922]
    return np.array((x0 + (i - i0) * dx, y0 - (j - j0) * dy))


@pytest.mark.parametrize("tags", [(PIXELS, TIES, keys(KEYS)), (MATRIX, keys(KEYS)), (CONTROL, keys(KEYS))])
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib"}])
def test_without_a_change_of_size_every_number_is_the_same(tmp_path: Path, tags: tuple, options: dict) -> None:
    more = [(34736, 12, 2, (6378137.0, 298.25), True), (34737, 2, 0, "WGS 84 / UTM|", True)]
    path = geotiff(
        tmp_path / "a.tif",
        *tags,
        *more,
        (42112, 2, 0, "<GDALMetadata><Item name='a'>b</Item></GDALMetadata>", True),
        **options,
    )
    made, left_out = result(path)
    for code, _, _, value, _ in (*tags, *more):
        assert made[code] == value
    assert "<Item name='a'>b</Item>" in made[42112] and left_out == LeftOut()


@pytest.mark.parametrize("numbers", [KEYS, OF_POINTS])
@pytest.mark.parametrize("tags", [(PIXELS, TIES), (MATRIX,)])
@pytest.mark.parametrize(("width", "height"), [(80, 48), (20, 12), (100, 48)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_corners_stay_where_they_are(
    tmp_path: Path, numbers: list[int], tags: tuple, width: int, height: int, order: str
) -> None:
    before = {code: value for code, _, _, value, _ in (*tags, keys(numbers))}
    after, left_out = result(geotiff(tmp_path / "a.tif", *tags, keys(numbers), byteorder=order), width, height)
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1), (0.3, 0.7)):
        expected = ground(before, x * 40, y * 24)
        np.testing.assert_allclose(ground(after, x * width, y * height), expected, rtol=0, atol=1e-6)
    assert left_out == LeftOut()


def test_control_points(tmp_path: Path) -> None:
    after, _ = result(geotiff(tmp_path / "a.tif", CONTROL, keys(OF_POINTS)), 80, 72)
    points = np.array(after[33922]).reshape(4, 6)
    np.testing.assert_allclose(points[:, 0] + 0.5, (POINTS[:, 0] + 0.5) * 2)
    np.testing.assert_allclose(points[:, 1] + 0.5, (POINTS[:, 1] + 0.5) * 3)
    np.testing.assert_array_equal(points[:, 2:], POINTS[:, 2:])


def test_what_holds_for_the_pixels_of_the_input_alone_is_left_out_and_named(tmp_path: Path) -> None:
    metadata = (
        '<GDALMetadata>\n  <Item name="SENSOR">MSI</Item>\n  <Item name="STATISTICS_MEAN" sample="0">3</Item>\n'
        '  <Item name="DESCRIPTION" sample="1" role="description">green</Item>\n</GDALMetadata>'
    )
    path = geotiff(tmp_path / "a.tif", PIXELS, TIES, (42112, 2, 0, metadata, True), (42113, 2, 0, "0", True))
    made, left_out = result(path)
    assert '<Item name="SENSOR">MSI</Item>' in made[42112] and "sample" not in made[42112] and 42113 not in made
    assert [reason[:20] for reason in left_out.by_rule] == ["GDAL's nodata value,", "GDAL's statistics, s"]
    assert left_out.lost == ()
    for text in ('<?xml version="1.0"?><OME xmlns="x"/>', "ImageJ=1.54\nimages=1", '{"shape": [24, 40, 3]}'):
        made, left_out = result(geotiff(tmp_path / "a.tif", description=text))
        assert 270 not in made and "OME-XML" in left_out.by_rule[0]
    made, left_out = result(geotiff(tmp_path / "a.tif", description="a field in May"))
    assert made[270] == "a field in May" and left_out == LeftOut()


def test_technical_has_no_texts_of_gdal(tmp_path: Path) -> None:
    metadata = '<GDALMetadata>\n  <Item name="AUTHOR">somebody</Item>\n</GDALMetadata>'
    path = geotiff(tmp_path / "a.tif", PIXELS, TIES, keys(KEYS), (42112, 2, 0, metadata, True))
    assert "somebody" in result(path)[0][42112]
    made, left_out = result(path, which="technical")
    assert {33550, 33922, 34735} <= made.keys() and 42112 not in made and left_out == LeftOut()


def test_rational_polynomials_hold_for_the_size_alone(tmp_path: Path) -> None:
    path = geotiff(tmp_path / "a.tif", (50844, 12, 92, tuple(map(float, range(92))), True))
    assert result(path)[0][50844] == tuple(range(92))
    made, left_out = result(path, 80, 48)
    assert 50844 not in made and left_out.lost == ("rational polynomial coefficients of an image whose size changes",)


def test_a_turned_image_has_no_georeference(tmp_path: Path) -> None:
    made, left_out = result(geotiff(tmp_path / "a.tif", PIXELS, TIES, keys(KEYS), (274, 3, 1, 3, True)))
    assert not {33550, 33922, 34735} & made.keys()
    assert left_out.lost == ("georeference of an image that its orientation tag turns",)


@pytest.mark.parametrize(
    "tag",
    [
        (33550, 12, 2, (1.0, 1.0), True), (33550, 3, 3, (1, 1, 1), True), (33922, 12, 5, (1.0,) * 5, True),
        (34264, 12, 12, (1.0,) * 12, True), (34735, 3, 3, (1, 1, 0), True),
        (34735, 3, 8, (1, 1, 0, 9, 1, 1, 1, 1), True),
    ],
)  # fmt: skip
def test_a_damaged_one_is_left_out_and_named(tmp_path: Path, tag: tuple) -> None:
    others = [other for other in (PIXELS, TIES) if other[0] != tag[0]]
    made, left_out = result(geotiff(tmp_path / "a.tif", tag, *others, (315, 2, 0, "somebody", True)))
    assert not {33550, 33922, 34264, 34735} & made.keys() and made[315] == "somebody"
    assert left_out.lost == ("georeference: damaged",)
