from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast import logs
from cyclegan_fast.config import PixelFormat
from cyclegan_fast.data.catalog.probe import inspect
from cyclegan_fast.images import BadImageError, decode
from cyclegan_fast.images.decode import read
from cyclegan_fast.images.image_file import as_image_file
from tests.reliability import Recorder

CORNERS = np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [240, 240, 240]]], dtype=np.uint8)
UPRIGHT = np.kron(CORNERS, np.ones((16, 24, 1), dtype=np.uint8))  # [32, 48, 3]: a colour in each corner
TURNS = {  # EXIF orientation -> how the stored pixels differ from the upright ones
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", sorted(TURNS))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](UPRIGHT)))
    exif = stored.getexif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(np.asarray(decode(tmp_path / "x.png", 3)), UPRIGHT)
    assert inspect(as_image_file(tmp_path / "x.png")).size == (48, 32)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 1, 128, 129, 255, 256, 257, 32767, 32896, 65534, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    expected = np.rint(values / 257.0).astype(np.uint8)
    assert np.array_equal(np.asarray(decode(tmp_path / "x.png", 1)), expected)
    assert np.array_equal(np.asarray(decode(tmp_path / "x.png", 3))[..., 2], expected)


def test_16_bit_tiff_and_pgm_obey_the_same_rule(tmp_path: Path) -> None:
    values = np.array([[0, 300, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.tif")
    (tmp_path / "x.ppm").write_bytes(b"P5 3 1 65535\n" + values.astype(">u2").tobytes())
    for name in ("x.tif", "x.ppm"):
        assert np.asarray(decode(tmp_path / name, 1)).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 1), (0,) * len(mode))
    image.putpixel((1, 0), (0,) * (len(mode) - 1) + (255,))
    image.save(tmp_path / "x.png")
    assert np.asarray(decode(tmp_path / "x.png", 3)).tolist() == [[[255] * 3, [0] * 3]]
    assert np.asarray(decode(tmp_path / "x.png", 1)).tolist() == [[255, 0]]


def test_palette_cmyk_and_grey_become_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (220, 30, 30))
    red.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    red.convert("CMYK").save(tmp_path / "c.jpg", quality=98)
    red.convert("L").save(tmp_path / "l.png")
    for name in ("p.png", "c.jpg"):
        decoded = decode(tmp_path / name, 3)
        assert decoded.mode == "RGB"
        assert np.abs(np.asarray(decoded).astype(int) - (220, 30, 30)).max() <= 3
    assert len(set(decode(tmp_path / "l.png", 3).getpixel((0, 0)))) == 1


@pytest.mark.fault(6)
def test_content_decides_and_animations_give_their_first_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, user_sees: Recorder
) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.png", format="GIF", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(logs, "_reported", set())  # it warns once per process
    for _ in range(2):
        assert decode(tmp_path / "moving.png", 3).getpixel((5, 5)) == (255, 0, 0)
    (warning,) = caplog.messages
    user_sees(warning)
    assert warning == "animated files: only the first frame is used"


def test_every_bad_file_is_named_with_its_reason(bad_file: Path) -> None:
    reasons = {
        "empty.jpg": "empty",
        "text.jpg": "not an image",
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "scratched.png": "damaged",
        "bomb.png": "too many pixels",
        "float.tif": "NaN",
    }
    for look in (lambda path: inspect(as_image_file(path)), lambda path: decode(path, 3)):
        with pytest.raises(BadImageError, match=reasons[bad_file.name]) as error:
            look(bad_file)
        assert str(error.value).startswith(str(bad_file)) and "\n" not in str(error.value)


def test_missing_file_and_odd_channels(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="does not exist"):
        decode(tmp_path / "gone.png", 3)
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    with pytest.raises(BadImageError, match="it has 1 channels, and 4 are wanted; --channels-A"):
        read(tmp_path / "x.png", PixelFormat(channels=4))
