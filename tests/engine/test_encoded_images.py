"""Encoded images in memory go the way of a path: bytes of every kind, and files that are open."""

import asyncio
import io
import tempfile

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast import logs
from cyclegan_fast.engine import infer, infer_async
from cyclegan_fast.errors import UserError
from tests.data.sample_images import png_header
from tests.engine.identity import Identity
from tests.engine.test_inference import pixels


def stored(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def same(a, b):
    assert a.mode == b.mode
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


COLOUR = stored(Image.fromarray(pixels(20, 32, 3)))


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO], ids=lambda wrap: wrap.__name__)
def test_bytes_of_every_kind_give_a_pil_image(wrap):
    result = infer(Identity(), wrap(COLOUR))
    assert isinstance(result, Image.Image)
    np.testing.assert_array_equal(np.asarray(result), pixels(20, 32, 3))


def test_a_file_is_read_from_where_it_stands_and_stays_open(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"header" + COLOUR)
    with (tmp_path / "a.bin").open("rb") as file:
        file.seek(6)
        np.testing.assert_array_equal(np.asarray(infer(Identity(), file)), pixels(20, 32, 3))
        assert not file.closed and file.read() == b""


def test_the_file_of_an_upload_is_taken():
    with tempfile.SpooledTemporaryFile(max_size=2**20) as upload:
        upload.write(COLOUR)
        upload.seek(0)
        np.testing.assert_array_equal(np.asarray(infer(Identity(), upload)), pixels(20, 32, 3))


def with_exif(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return stored(image, exif=exif)


IMAGES = {
    "turned": with_exif(Image.fromarray(pixels(20, 32, 3)), 6),
    "mirrored": with_exif(Image.fromarray(pixels(20, 32, 3)), 5),
    "alpha": stored(Image.fromarray(pixels(20, 32, 4))),
    "grey with alpha": stored(Image.fromarray(pixels(20, 32, 2))),
    "palette": stored(Image.fromarray(pixels(20, 32, 3)).convert("P")),
    "16 bits": stored(Image.fromarray(pixels(20, 32, dtype=np.uint16))),
    "TIFF of 16 bits": stored(Image.fromarray(pixels(20, 32, dtype=np.uint16)), "TIFF"),
    "JPEG": stored(Image.fromarray(pixels(20, 32, 3)), "JPEG"),
    "CMYK": stored(Image.fromarray(pixels(20, 32, 4), mode="CMYK"), "JPEG"),
    "PPM": stored(Image.fromarray(pixels(20, 32, 3)), "PPM"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", IMAGES)
def test_bytes_are_read_as_their_file_is(name, channels, tmp_path):
    (tmp_path / "image").write_bytes(IMAGES[name])
    expected = infer(Identity(channels), tmp_path / "image")
    same(infer(Identity(channels), IMAGES[name]), expected)
    same(infer(Identity(channels), io.BytesIO(IMAGES[name])), expected)


def test_sixteen_bit_colour_is_read_with_all_bits(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    deep = pixels(20, 32, 3, dtype=np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    result = infer(Identity(), (tmp_path / "deep.png").read_bytes())
    same(result, infer(Identity(), tmp_path / "deep.png"))
    np.testing.assert_array_equal(np.asarray(result), np.rint(deep / 257.0))


def test_lists_and_streams_mix_them_with_other_images(tmp_path):
    (tmp_path / "a.png").write_bytes(COLOUR)
    array = pixels(20, 32, 3)
    results = infer(Identity(), [COLOUR, io.BytesIO(COLOUR), tmp_path / "a.png", array])
    assert [type(result) for result in results[:3]] == [Image.Image] * 3 and isinstance(results[3], np.ndarray)
    for result in infer(Identity(), iter([COLOUR, io.BytesIO(COLOUR)])):
        np.testing.assert_array_equal(np.asarray(result), array)


def test_a_file_may_be_closed_once_infer_async_returned():
    with Identity() as engine:
        file, again = io.BytesIO(COLOUR), io.BytesIO(COLOUR)
        futures = [infer_async(engine, file), infer_async(engine, [again, COLOUR])]
        file.close()
        again.close()
        one, several = (future.result() for future in futures)
        for result in (one, *several):
            np.testing.assert_array_equal(np.asarray(result), pixels(20, 32, 3))


class Upload:
    """As of a web framework, whose `read` is a coroutine."""

    filename = "horse.jpg"

    async def read(self):
        return COLOUR


class Text(io.StringIO):
    name = "horse.txt"


def closed():
    file = io.BytesIO(COLOUR)
    file.close()
    return file


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (b"", r"^the encoded image: the file is empty$"),
        (b"no image", r"^the encoded image: not an image in a known format \(JPEG, PNG"),
        (COLOUR[:300], r"^the encoded image: damaged or unsupported"),
        (png_header(30_000, 30_000), r"^the encoded image: too many pixels"),
        (b"\0\0\0\x18ftypheic", r"^the encoded image: an image of HEIC or AVIF.*convert it to PNG"),
        (io.BytesIO(b"no image"), r"^the file object \(BytesIO\): not an image"),
        (Text("no image"), r"^horse\.txt gives str when it is read, not bytes: open it with mode 'rb'$"),
        (closed(), r"^the file object \(BytesIO\) cannot be read \(I/O operation on closed file\.\): give an open"),
        (Upload(), r"^horse\.jpg is read by a coroutine: give `await x\.read\(\)`"),
    ],
    ids=["empty", "no image", "cut", "bomb", "heic", "no image in a file", "text", "closed", "coroutine"],
)
@pytest.mark.filterwarnings("error")  # such as that a coroutine was never awaited
def test_bad_bytes_are_refused_in_one_sentence(given, reason):
    engine = Identity()
    with pytest.raises(UserError, match=reason) as caught:
        infer(engine, given)
    assert "\n" not in str(caught.value) and engine.seen == []


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: b"bad", r"the encoded image: not an image"),
        (lambda: io.BytesIO(b"bad"), r"the file object \(BytesIO\): not an image"),
        (closed, r"the file object \(BytesIO\) cannot be read"),
    ],
    ids=["bytes", "file", "closed file"],
)
@pytest.mark.parametrize("call", [infer, lambda *given: infer_async(*given).result()], ids=["infer", "infer_async"])
def test_the_message_about_one_of_a_list_has_its_number(call, bad, reason):
    with Identity() as engine, pytest.raises(UserError, match=rf"^image 1 of the list \(counted from 0\): {reason}"):
        call(engine, [COLOUR, bad()])


def test_an_upload_is_awaited_by_its_service():
    async def serve(engine):
        return await asyncio.wrap_future(infer_async(engine, await Upload().read()))

    with Identity() as engine:
        np.testing.assert_array_equal(np.asarray(asyncio.run(serve(engine))), pixels(20, 32, 3))


NOTE = "no pixel of a floating-point image is below 0: floats are taken as [-1, 1]"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_that_may_be_meant_as_0_to_1_are_reported_once(dtype, caplog, monkeypatch):
    monkeypatch.setattr(logs, "_reported", set())
    image = (pixels(8, 8, 3) / 255).astype(dtype)
    for _ in range(2):
        np.testing.assert_array_equal(infer(Identity(), image), image.astype(np.float32).astype(dtype))
    (record,) = caplog.records
    assert record.getMessage().startswith(NOTE) and "give x * 2 - 1" in record.getMessage()


@pytest.mark.parametrize(
    "image",
    [pixels(8, 8, 3, dtype=np.float32), np.zeros((8, 8, 3), np.float32), pixels(8, 8, 3), np.zeros((0, 8, 8, 3), "f4")],
    ids=["below 0", "all 0", "whole numbers", "no image"],
)
def test_other_images_are_not_reported(image, caplog, monkeypatch):
    monkeypatch.setattr(logs, "_reported", set())
    infer(Identity(), image)
    assert not caplog.records
