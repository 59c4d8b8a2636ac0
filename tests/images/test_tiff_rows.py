"""TIFFs by rows: every layout gives the pixels that the whole file has, and what is written reads back."""

import itertools

import numpy as np
import pytest

from cyclegan_fast import logs
from cyclegan_fast.errors import UserError
from cyclegan_fast.images import BadImageError
from cyclegan_fast.images.decode import read_unscaled
from cyclegan_fast.images.tiff_rows import TiffRows, write_tiff

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

LAYOUTS = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (32, 48)},
    "planes": {"rowsperstrip": 11, "planarconfig": "separate"},
    "planes of tiles": {"tile": (16, 16), "planarconfig": "separate"},
}


def pixels(dtype, channels, height=101, width=75):
    values = np.random.default_rng(0).random((height, width, channels))
    return values.astype(dtype) if dtype == "float32" else (values * np.iinfo(dtype).max).astype(dtype)


def save(path, stored, *, photometric=None, **options):
    channels = stored.shape[2]
    planes = options.get("planarconfig") == "separate"
    tifffile.imwrite(
        path,
        stored[..., 0] if channels == 1 else np.moveaxis(stored, -1, 0) if planes else stored,
        photometric=photometric or ("rgb" if channels == 3 else "minisblack"),
        metadata=None,
        **({"planarconfig": "contig"} if channels > 1 else {}) | options,
    )
    return path


def by_rows(path, channels, step=13):
    rows = TiffRows(path, channels)
    made = np.concatenate([rows.pixels(low, min(low + step, rows.height)) for low in range(0, rows.height, step)])
    rows.close()
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_every_layout(tmp_path, layout, dtype, compression):
    for channels in (1, 3, 5):
        options = dict(LAYOUTS[layout])
        if channels == 1:
            options.pop("planarconfig", None)
        stored = pixels(dtype, channels)
        path = save(tmp_path / "x.tif", stored, compression=compression, **options)
        rows = TiffRows(path, channels)
        assert (rows.height, rows.width, rows.dtype) == (101, 75, dtype)
        assert rows.compressed == (compression is not None)
        for low, high in itertools.pairwise((0, 1, 40, 101)):
            np.testing.assert_array_equal(rows.pixels(low, high), stored[low:high])
        rows.close()


def test_colour_by_the_rule_of_whole_files(tmp_path):
    grey, colour = pixels("uint8", 1), pixels("uint8", 3)
    for name, stored, options, channels in (
        ("grey as colour", grey, {}, 3),
        ("colour as grey", colour, {}, 1),
        ("white is least", grey, {"photometric": "miniswhite"}, 1),
        ("transparent", pixels("uint16", 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}, 3),
    ):
        path = save(tmp_path / "x.tif", stored, **options)
        made = by_rows(path, channels).astype(int)
        np.testing.assert_allclose(made, read_unscaled(path, channels), atol=name == "colour as grey", err_msg=name)
    slide = save(tmp_path / "slide.tif", colour, photometric="ycbcr", compression="jpeg", tile=(32, 32))
    np.testing.assert_array_equal(by_rows(slide, 3), tifffile.imread(slide))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 3), ("uint16", 1), ("float32", 5)])
def test_what_is_written_reads_back(tmp_path, dtype, channels, compress):
    stored, path = pixels(dtype, channels, 200, 33), tmp_path / "new" / "x.tif"
    bands = (stored[low : low + 17] for low in range(0, 200, 17))
    write_tiff(path, bands, stored.shape, stored.dtype, compress=compress)
    np.testing.assert_array_equal(tifffile.imread(path).reshape(stored.shape), stored)
    rows = TiffRows(path, channels)
    assert rows.compressed == compress
    np.testing.assert_array_equal(rows.pixels(63, 130), stored[63:130])
    rows.close()


@pytest.mark.parametrize("pages", [1, 3])
def test_further_pages_are_left_out_and_the_log_says_so(tmp_path, caplog, monkeypatch, pages):
    monkeypatch.setattr(logs, "_reported", set())  # it warns once per process
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for i in range(pages):
            file.write(pixels("uint8", 3) // (i + 1), photometric="rgb", metadata=None)
    np.testing.assert_array_equal(by_rows(tmp_path / "x.tif", 3), pixels("uint8", 3))
    assert caplog.messages == ["animated files: only the first frame is used"] * (pages > 1)


def test_a_break_leaves_the_older_file(tmp_path):
    stored, path = pixels("uint8", 3), tmp_path / "x.tif"
    path.write_bytes(b"older")

    def bands():
        yield stored[:70]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tiff(path, bands(), stored.shape, stored.dtype, compress=True)
    assert path.read_bytes() == b"older" and list(tmp_path.iterdir()) == [path]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_tiff(tmp_path / "file" / "x.tif", iter([stored]), stored.shape, stored.dtype, compress=False)


def test_what_has_no_rule_is_refused(tmp_path):
    stored = pixels("uint8", 5)
    with pytest.raises(BadImageError, match="5 channels, and 3 are wanted"):
        TiffRows(save(tmp_path / "x.tif", stored), 3)
    turned = save(tmp_path / "turned.tif", pixels("uint8", 3), extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(BadImageError, match="lies on its side"):
        TiffRows(turned, 3)
    cut = save(tmp_path / "cut.tif", pixels("uint8", 3), compression="zlib", rowsperstrip=10)
    cut.write_bytes(cut.read_bytes()[:-9000])
    with pytest.raises(BadImageError):
        by_rows(cut, 3)
    (tmp_path / "no.tif").write_bytes(b"II*\0 and no more")
    with pytest.raises(BadImageError):
        TiffRows(tmp_path / "no.tif", 3)
