"""Metadata on the whole way of a file: read, through an engine, and in the result that other programs open."""

import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.engine import Engine, EngineInfo, ShapeLimits, Tiling, infer
from cyclegan_fast.engine.translation.files import translate_files
from cyclegan_fast.engine.translation.tasks import plan_tasks
from cyclegan_fast.errors import MissingFileError, StorageError, UserError
from cyclegan_fast.images.metadata import KEEP, LeftOut, MetadataRules
from cyclegan_fast.images.metadata.nodata import NODATA
from cyclegan_fast.translate import translate
from tests.data.sample_images import needs_deep, noise
from tests.engine.identity import Identity
from tests.images.test_damaged_metadata import FILES
from tests.images.test_georeference import KEYS, PIXELS, TIES, geotiff, ground, keys
from tests.images.test_metadata import PROFILE, source


@needs_deep
@pytest.mark.parametrize("tiling", [None, Tiling("tile", tile=32)], ids=["as a whole", "by rows"])
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"byteorder": ">", "bigtiff": True, "compression": "zlib"}, {"tile": (16, 16)}]
)
def test_a_geotiff(tmp_path: Path, tiling: Tiling | None, scale: int, options: dict) -> None:
    import tifffile

    more = [(42113, 2, 0, "-9999", True), (34675, 7, len(PROFILE), PROFILE, True), (315, 2, 0, "somebody", True)]
    path = geotiff(
        tmp_path / "map.tif", PIXELS, TIES, keys(KEYS), *more, shape=(96, 80), resolution=(300, 300), **options
    )
    tasks = plan_tasks(path, tmp_path / "out")
    (done,) = translate_files(Identity(scale=scale), tasks, tiling=tiling)
    assert done.fault == "" and done.left_out.lost == ()
    assert done.left_out.by_rule == ("GDAL's nodata value, since the translation gives those pixels other values",)
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(tmp_path / "out" / "map.tif") as after:
        old, new = ({tag.code: tag.value for tag in file.pages[0].tags} for file in (before, after))
        assert after.pages[0].asarray().shape == (96 * scale, 80 * scale, 3) and len(after.pages) == 1
        assert after.pages[0].geotiff_tags["ProjectedCSTypeGeoKey"] == 32632
    for x, y in ((0, 0), (80, 96), (11.5, 7.25)):
        np.testing.assert_allclose(ground(new, x * scale, y * scale), ground(old, x, y), rtol=0, atol=1e-6)
    assert (new[278] == 64) == (tiling is not None), "the rows of a strip, of what is written by rows"
    assert new[34675] == PROFILE and new[315] == "somebody" and new[282] == (300 * scale, 1)


def test_one_line_for_what_no_format_or_no_result_holds(tmp_path: Path, runs, caplog, capsys) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        source(folder, "JPEG").rename(folder / f"{i}.jpg")
        noise(24, 40).save(folder / f"{i}.gif", comment=b"kept")
    for name in ("a.jpg", "b.png"):
        (folder / name).write_bytes((folder / "0.jpg").read_bytes().replace(b"acsp", b"-no-"))
    options = {"engine": runs["colour"], "input": folder, "device": "cpu", "threads": 1}
    with caplog.at_level(logging.INFO):
        assert translate(**options, output=tmp_path / "out") == 0
    lines = [record for record in caplog.records if "metadata" in record.getMessage()]
    assert [record.levelname for record in lines] == ["WARNING", "INFO"]
    assert lines[0].getMessage() == (
        f"metadata that results lack: a colour profile: damaged ({folder / 'a.jpg'} and 1 more)"
    )
    assert (
        "thumbnail and private tags" in lines[1].getMessage()
        and f"({folder / '0.jpg'} and 4 more)" in lines[1].getMessage()
    )
    with Image.open(tmp_path / "out" / "0.jpg") as made:
        assert made.info["icc_profile"] == PROFILE and made.getexif()[271] == "Maker"
    with Image.open(tmp_path / "out" / "0.gif") as made:
        assert made.info["comment"] == b"kept"
    caplog.clear()
    assert translate(**options, output=tmp_path / "none", metadata="none") == 0
    assert not [line for line in caplog.messages if "metadata" in line]
    with Image.open(tmp_path / "none" / "0.jpg") as made:
        assert "icc_profile" not in made.info and not made.getexif()


def test_the_format_that_is_asked_for_decides_what_it_can_hold(tmp_path: Path, runs, caplog) -> None:
    path = source(tmp_path, "JPEG")
    options = {"engine": runs["colour"], "device": "cpu", "threads": 1}
    assert translate(**options, input=path, output=tmp_path / "a.bmp") == 0
    assert "a colour profile, which BMP cannot hold" in caplog.text and "EXIF, which BMP cannot hold" in caplog.text
    assert np.allclose(Image.open(tmp_path / "a.bmp").info["dpi"], (150, 300), rtol=1e-3)
    assert translate(**options, input=path, output=tmp_path / "a.png") == 0
    assert Image.open(tmp_path / "a.png").info["icc_profile"] == PROFILE


def test_animations_and_pages_have_the_metadata_of_the_file_and_of_its_first_page(tmp_path: Path) -> None:
    frames = [noise(24, 40, seed) for seed in range(2)]
    options = {"save_all": True, "append_images": frames[1:], "icc_profile": PROFILE}
    frames[0].save(tmp_path / "a.webp", **options)
    frames[0].save(tmp_path / "a.png", **options)
    frames[0].save(tmp_path / "a.tif", **options)
    tasks = plan_tasks(tmp_path / "a.*", tmp_path / "out")
    for done in translate_files(Identity(), tasks):
        assert (done.fault, done.left_out.lost) == ("", ())
        with Image.open(done.task.target) as made:
            assert made.info["icc_profile"] == PROFILE and getattr(made, "n_frames", 1) == 1


def test_a_disk_that_is_full_is_no_damaged_metadata(tmp_path: Path) -> None:
    """The pixels have room, and the tags have none."""
    resource = pytest.importorskip("resource", reason="limits on files of POSIX")
    pytest.importorskip("tifffile")
    path = geotiff(tmp_path / "map.tif", PIXELS, TIES, shape=(96, 80))
    tiling = Tiling("tile", tile=32)
    (done,) = translate_files(
        Identity(), plan_tasks(path, tmp_path / "plain"), tiling=tiling, metadata=MetadataRules("none")
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (done.task.target.stat().st_size, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*map\.tif: File too large"):
            list(translate_files(Identity(), plan_tasks(path, tmp_path / "out"), tiling=tiling))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "out").iterdir()) == []


class Brighter(Identity):
    """Moves all values, so that none without data stays as it is."""

    def _compute(self, batch):
        return super()._compute(batch) * 0.5 + 0.1


@needs_deep
@pytest.mark.parametrize("tiling", [None, Tiling("tile", tile=32)], ids=["as a whole", "by rows"])
@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 0), (np.uint8, 255), (np.uint16, 4242)])
@pytest.mark.parametrize(("channels", "scale"), [(1, 1), (3, 1), (3, 2), (1, 3)])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "rowsperstrip": 20}])
def test_pixels_without_data_stay_without(tmp_path: Path, tiling, dtype, value, channels, scale, options) -> None:
    import tifffile

    pixels = np.random.default_rng(0).integers(0, 256, (96, 80, channels)).astype(dtype) * dtype(17)
    pixels[:, :7] = pixels[40:60, 30:70] = value
    pixels[5, 50, 0] = value  # in one channel, if there are more
    missing = (pixels == value).all(2)
    stored = pixels if channels > 1 else pixels[..., 0]
    photometric = "rgb" if channels == 3 else "minisblack"
    tag = (42113, 2, 0, f"{value}", True)
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric=photometric, metadata=None, extratags=[tag, PIXELS, TIES], **options
    )
    engine = Brighter(channels, scale=scale)
    (done,) = translate_files(engine, plan_tasks(tmp_path / "a.tif", tmp_path / "out"), tiling=tiling)
    assert (done.fault, done.left_out) == ("", LeftOut())
    with tifffile.TiffFile(tmp_path / "out" / "a.tif") as file:
        assert file.pages[0].tags[42113].value == f"{value}"
        made = file.pages[0].asarray().reshape(96 * scale, 80 * scale, channels)
    expected = missing.repeat(scale, 0).repeat(scale, 1)
    assert np.array_equal((made == value).all(2), expected) and not (made[~expected] == value).any()
    assert abs(made[~expected].astype(float).mean() - _brighter(pixels[~missing])) < 1


class Elevation(Brighter):
    """Takes and makes elevations of 0 to 1000 metres."""

    def __init__(self) -> None:
        heights = PixelFormat(channels=1, depth="float", low=0.0, high=1000.0)
        limits = ShapeLimits(size_divisor=4, min_size=8)
        facts = {"name": "elevation", "device": "cpu", "precision": "fp32", "direction": "AtoB"}
        Engine.__init__(self, EngineInfo(**facts, in_format=heights, out_format=heights, limits=limits))
        self.seen, self.scale = [], 1


@needs_deep
@pytest.mark.parametrize("tiling", [None, Tiling("tile", tile=32)], ids=["as a whole", "by rows"])
@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        (np.float32, -9999, "-9999"), (np.float64, -9999.5, "-9999.5"), (np.int16, -32768, "-32768"),
        (np.float32, np.finfo(np.float32).min, "-3.40282346638529e+38"), (np.uint16, 65535, "65535"),
        (np.float32, np.finfo(np.float32).min, "-3.4028235e+38"), (np.int64, -9999, "-9999"),
    ],
)  # fmt: skip
def test_floats_and_signed_values_without_data(tmp_path: Path, tiling, dtype, value, text) -> None:
    import tifffile

    heights = np.random.default_rng(0).uniform(0, 1000, (96, 80)).astype(dtype)
    heights[:20] = heights[50:60, 30:40] = value
    tag = (42113, 2, 0, text, True)
    tifffile.imwrite(
        tmp_path / "a.tif", heights, photometric="minisblack", metadata=None, extratags=[tag, PIXELS, TIES]
    )
    (done,) = translate_files(Elevation(), plan_tasks(tmp_path / "a.tif", tmp_path / "out"), tiling=tiling)
    assert (done.fault, done.left_out) == ("", LeftOut())
    with tifffile.TiffFile(tmp_path / "out" / "a.tif") as file:
        assert file.pages[0].tags[42113].value == text
        made = file.pages[0].asarray()
    assert made.dtype == np.float32 and np.array_equal(made == np.float32(value), heights == value)
    whole = heights != value
    expected = ((heights[whole].astype(float) / 500 - 1) * 0.5 + 0.1 + 1) * 500
    np.testing.assert_allclose(made[whole], expected, atol=1e-3)


@needs_deep
def test_colours_that_become_grey_and_transparency_leave_no_value_to_find(tmp_path: Path) -> None:
    import tifffile

    tag = (42113, 2, 0, "0", True)
    for channels, into in ((3, 1), (4, 3)):
        options = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        pixels = np.zeros((24, 40, channels), np.uint8)
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", metadata=None, extratags=[tag], **options)
        tasks = plan_tasks(tmp_path / "a.tif", tmp_path / "out", overwrite=True)
        (done,) = translate_files(Identity(into), tasks)
        assert (done.fault, done.left_out.by_rule) == ("", (NODATA,))


def _brighter(values: np.ndarray) -> float:
    white = np.iinfo(values.dtype).max
    return float(((values / white * 2 - 1) * 0.5 + 0.1 + 1).mean() / 2 * white)


@needs_deep
@pytest.mark.parametrize(
    ("value", "dtype", "options", "rules"),
    [
        ("0", np.uint8, {}, MetadataRules(nodata="drop")), ("0", np.uint8, {}, MetadataRules("none")),
        ("-9999", np.uint8, {}, KEEP), ("0.5", np.uint8, {}, KEEP), ("nan", np.uint8, {}, KEEP),
        ("none at all", np.uint8, {}, KEEP), ("300", np.uint8, {}, KEEP),
        ("0", np.uint8, {"photometric": "miniswhite"}, KEEP), ("-7", np.int32, {}, KEEP),
        ("inf", np.uint8, {}, KEEP),
    ],
)  # fmt: skip
def test_a_nodata_value_that_cannot_be_restored_is_left_out(tmp_path: Path, value, dtype, options, rules) -> None:
    import tifffile

    options = {"photometric": "minisblack"} | options
    tag = (42113, 2, 0, value, True)
    tifffile.imwrite(tmp_path / "a.tif", np.full((40, 40), 7, dtype), metadata=None, extratags=[tag], **options)
    (done,) = translate_files(Identity(1), plan_tasks(tmp_path / "a.tif", tmp_path / "out"), metadata=rules)
    asked = rules != KEEP
    assert done.fault == "" and done.left_out.by_rule == (() if asked else (NODATA,))
    with tifffile.TiffFile(tmp_path / "out" / "a.tif") as file:
        assert 42113 not in file.pages[0].tags and file.pages[0].asarray().min() in (7, 248)


def test_a_profile_of_the_domain_of_the_results(tmp_path: Path, runs, capsys) -> None:
    profile = tmp_path / "domain.icc"
    profile.write_bytes(PROFILE.replace(b"sRGB built-in", b"of the domain"))
    path = source(tmp_path, "JPEG")
    options = {"engine": runs["colour"], "device": "cpu", "threads": 1, "input": path}
    for name, expected in ((str(profile), profile.read_bytes()), ("none", None), ("keep", PROFILE)):
        assert translate(**options, output=tmp_path / "out" / "a.png", profile=name, overwrite=True) == 0
        with Image.open(tmp_path / "out" / "a.png") as made:
            assert made.info.get("icc_profile") == expected and made.getexif()[271] == "Maker"
    assert translate(**options, output=tmp_path / "b.jpg", profile=str(profile), metadata="none") == 0
    with Image.open(tmp_path / "b.jpg") as made:
        assert made.info["icc_profile"] == profile.read_bytes() and not made.getexif()
    with pytest.raises(UserError, match=r"--profile \S+source\.jpeg is no colour profile: give keep, none"):
        translate(**options, output=tmp_path / "c.jpg", profile=str(path))
    with pytest.raises(MissingFileError, match=r"--profile \S+gone\.icc: No such file or directory; give keep, none"):
        translate(**options, output=tmp_path / "c.jpg", profile=str(tmp_path / "gone.icc"))


def test_what_infer_returns_has_the_profile_alone(tmp_path: Path) -> None:
    path = source(tmp_path, "JPEG")
    with Image.open(path) as opened:
        for given in (path, path.read_bytes(), io.BytesIO(path.read_bytes()), opened):
            made = infer(Identity(), given)
            assert made.info == {"icc_profile": PROFILE} and not made.getexif()
        assert infer(Identity(3, 1), path).info == infer(Identity(3, 1), opened).info == {}
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(path.read_bytes().replace(b"acsp", b"-no-"))
    assert infer(Identity(), damaged).info == {}
    of_path, of_array = infer(Identity(), [path, np.asarray(noise(8, 8))])
    assert of_path.info == {"icc_profile": PROFILE} and isinstance(of_array, np.ndarray)


def test_damaged_metadata_in_a_command(tmp_path: Path, runs) -> None:
    """Each image is translated; one line names what is damaged, and no library prints about it."""
    folder = tmp_path / "in"
    folder.mkdir()
    names = [name for name in FILES if name not in ("100 MB of text.png", "circle.jpg")]
    for name in names:
        (folder / name).write_bytes(FILES[name]())
    options = ["--engine", runs["colour"], "--input", folder, "--output", tmp_path / "out", "--device", "cpu"]
    command = [sys.executable, "-m", "cyclegan_fast.translate", *map(str, options), "--threads", "1"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0 and f"{len(names)} of {len(names)} files" in ended.stdout, ended
    notes = {*ended.stderr.splitlines()} - {"note: images with damaged EXIF: they are taken as they lie"}
    assert len(notes) == 1, notes
    note = notes.pop()
    assert note.startswith("note: metadata that results lack: ") and "damaged" in note and "too large" in note
