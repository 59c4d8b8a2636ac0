"""infer: every kind of image comes back as itself, and every wrong one is refused in a sentence."""

import itertools
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast import logs
from cyclegan_fast.engine import infer, load_engine
from cyclegan_fast.engine.tiling.rows import mirror_to
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.model_io import to_levels
from tests.data.sample_images import png_header
from tests.engine.identity import Identity


def pixels(*shape, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.uniform(-1, 1, shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def test_an_array_that_may_not_be_written_is_taken_without_a_warning():
    image = pixels(16, 20, 3)
    image.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(infer(Identity(), image), image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.float16])
@pytest.mark.parametrize("batch", [(), (1,), (5,)], ids=str)
def test_arrays_come_back_exactly(dtype, batch):
    x = pixels(*batch, 21, 34, 3, dtype=dtype)
    y = infer(Identity(), x, batch_size=2)
    assert isinstance(y, np.ndarray) and y.dtype == dtype and y.shape == x.shape
    np.testing.assert_array_equal(y, x if dtype != np.float64 else x.astype(np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("batch", [(), (1,), (5,)], ids=str)
def test_tensors_come_back_exactly(dtype, batch):
    dtype = getattr(torch, dtype)
    kind = {torch.uint8: np.uint8, torch.uint16: np.uint16}.get(dtype, np.float32)
    x = torch.from_numpy(pixels(*batch, 3, 21, 34, dtype=kind)).to(dtype)
    y = infer(Identity(), x, batch_size=2)
    assert y.dtype == dtype and y.is_contiguous() and torch.equal(y, x)


def test_every_level_survives():
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535)):
        x = np.resize(np.arange(top + 1, dtype=dtype), (256, 256 if top > 255 else 8, 1))
        np.testing.assert_array_equal(infer(Identity(1), x), x)


def test_levels_are_rounded_and_clamped_never_truncated():
    step = 2 / 255
    x = torch.tensor([-1.0, -1 + 0.49 * step, -1 + 0.51 * step, 1 - 0.49 * step, 1 - 0.51 * step, 1.7, -1.7])
    assert to_levels(x.view(1, 1, 1, -1), torch.uint8).flatten().tolist() == [0, 0, 1, 255, 254, 255, 0]
    step = 2 / 65535
    x = torch.tensor([-1 + 0.6 * step, 1 - 0.4 * step, 5.0], dtype=torch.float64).float()
    assert to_levels(x, torch.uint16).tolist() == [1, 65535, 65535]


def test_big_endian_and_strided_arrays():
    x = pixels(16, 24, 3, dtype=np.uint16)
    y = infer(Identity(), x.astype(">u2")[:, ::-1])
    np.testing.assert_array_equal(y, x[:, ::-1])
    z = torch.from_numpy(pixels(2, 3, 16, 24)).to(memory_format=torch.channels_last)
    assert torch.equal(infer(Identity(), z), z)


@pytest.mark.parametrize("channels", [1, 3])
def test_pil_images(channels):
    image = Image.fromarray(pixels(19, 30, 3)).convert("L" if channels == 1 else "RGB")
    result = infer(Identity(channels), image)
    assert result.mode == image.mode and result.size == (30, 19)
    np.testing.assert_array_equal(np.asarray(result), np.asarray(image))


def test_pil_modes_are_converted_by_the_one_rule():
    grey = Image.fromarray(pixels(9, 9))
    assert infer(Identity(3), grey).mode == "RGB"
    np.testing.assert_array_equal(np.asarray(infer(Identity(3), grey))[..., 2], np.asarray(grey))
    clear = Image.new("RGBA", (9, 9), (10, 20, 30, 0))
    assert infer(Identity(3), clear).getpixel((4, 4)) == (255, 255, 255)
    palette = Image.fromarray(pixels(9, 9, 3)).convert("P")
    np.testing.assert_array_equal(np.asarray(infer(Identity(3), palette)), np.asarray(palette.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_bits(tmp_path):
    x = pixels(11, 13, dtype=np.uint16)
    for image in (Image.fromarray(x), Image.fromarray(x.astype(np.int32))):
        result = infer(Identity(1), image)
        assert result.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(result), x)
    Image.fromarray(x).save(tmp_path / "deep.png")
    Image.fromarray(x).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        np.testing.assert_array_equal(np.asarray(infer(Identity(1), tmp_path / name)), x)


def test_sixteen_bit_grey_to_colour_is_reported(caplog, monkeypatch):
    monkeypatch.setattr(logs, "_reported", set())
    x = pixels(11, 13, dtype=np.uint16)
    result = infer(Identity(3), [Image.fromarray(x), Image.fromarray(x)])[1]
    assert [record.getMessage() for record in caplog.records] == [
        "16-bit images become 8-bit colour images: PIL knows no deeper colour"
    ]
    assert result.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(result)[..., 1], np.rint(x / 257).astype(np.uint8))


def test_paths_are_read_upright(tmp_path):
    x = pixels(20, 32, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(x).save(tmp_path / "turned.png", exif=exif)
    for path in (tmp_path / "turned.png", str(tmp_path / "turned.png")):
        np.testing.assert_array_equal(np.asarray(infer(Identity(), path)), np.rot90(x, -1))


def test_a_mixed_list_keeps_kinds_and_order(tmp_path):
    Image.fromarray(pixels(16, 16, 3)).save(tmp_path / "a.png")
    images = [
        pixels(16, 16, 3, seed=1),
        tmp_path / "a.png",
        torch.from_numpy(pixels(2, 3, 20, 9, dtype=np.float32)),
        Image.fromarray(pixels(16, 15, 3, seed=2)),
        pixels(3, 16, 16, 3, dtype=np.uint16),
        [pixels(9, 8, 3)],
    ]
    engine = Identity()
    results = infer(engine, images, batch_size=4)
    assert isinstance(results, list) and len(results) == len(images)
    np.testing.assert_array_equal(results[0], images[0])
    np.testing.assert_array_equal(np.asarray(results[1]), pixels(16, 16, 3))
    assert torch.equal(results[2], images[2])
    np.testing.assert_array_equal(np.asarray(results[3]), np.asarray(images[3]))
    np.testing.assert_array_equal(results[4], images[4])
    np.testing.assert_array_equal(results[5][0], images[5][0])
    # 16x15 is padded to 16x16 and so joins the other five of that size: a batch of 4 and one of 2
    assert sorted(engine.seen) == sorted([(4, 3, 16, 16), (2, 3, 16, 16), (2, 3, 20, 12), (1, 3, 12, 8)])


@pytest.mark.fault(22)
def test_nothing_in_nothing_out():
    engine = Identity(3, out_channels=1)
    assert infer(engine, []) == []
    empty = infer(engine, np.zeros((0, 16, 20, 3), np.uint8))
    assert empty.shape == (0, 16, 20, 1) and empty.dtype == np.uint8
    empty = infer(engine, torch.zeros(0, 3, 16, 20))
    assert empty.shape == (0, 1, 16, 20) and empty.dtype == torch.float32
    assert engine.seen == []


@pytest.mark.parametrize("size", [(9, 13), (8, 8), (11, 4), (257, 3)])
def test_padding_mirrors_as_numpy_does(size):
    x = torch.randn(2, 5, 3)
    target = (max(size[0], 5), max(size[1], 3))
    expected = np.pad(x.numpy(), ((0, 0), (0, target[0] - 5), (0, target[1] - 3)), mode="reflect")
    np.testing.assert_array_equal(mirror_to(x, target).numpy(), expected)
    assert mirror_to(torch.ones(1, 1, 1), (4, 4)).shape == (1, 4, 4)


def test_a_small_image_is_mirrored_many_times_where_the_network_wants_it():
    x = pixels(5, 7, 3)
    engine = Identity(size_divisor=32, min_size=2)
    np.testing.assert_array_equal(infer(engine, x), x)
    assert engine.seen == [(1, 3, 32, 32)]


@pytest.mark.fault(22)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 2), (3, 2), (7, 9)])
def test_images_below_the_least_side_are_mirrored_up_and_cropped_back(runs, size):
    x = pixels(*size, 3)
    engine = Identity(size_divisor=4, min_size=8)
    np.testing.assert_array_equal(infer(engine, x), x)
    assert engine.seen == [(1, 3, 8, {40: 40, 9: 12}.get(size[1], 8))]
    made = infer(load_engine(runs["colour"], device="cpu"), torch.from_numpy(x).permute(2, 0, 1))
    up = np.pad(x, [(0, max(0, 8 - size[0])), (0, max(0, 8 - size[1])), (0, 0)], mode="reflect")
    whole = infer(load_engine(runs["colour"], device="cpu"), torch.from_numpy(up).permute(2, 0, 1))
    assert torch.equal(made, whole[:, : size[0], : size[1]])


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(16, 20, 3), r"a tensor is \[C, H, W\].*permute"),
        (torch.zeros(2, 16, 20, 3), r"a tensor is \[C, H, W\].*permute"),
        (np.zeros((3, 16, 20), np.uint8), r"an array is \[H, W, C\].*transpose"),
        (np.zeros((16, 20), np.uint8), r"an array is \[H, W, C\].*\[16, 20\]"),
        (np.zeros((1, 2, 16, 20, 3), np.uint8), r"an array is \[H, W, C\]"),
        (np.zeros((16, 20, 4), np.uint8), "takes images of 3 channels"),
        (torch.zeros(1, 16, 20), "takes images of 3 channels"),
        (np.zeros((16, 20, 3), np.int64), r"pixels of type int64 are not known"),
        (np.zeros((16, 20, 3), bool), r"pixels of type bool are not known"),
        (np.zeros((16, 20, 3), "U1"), "pixels of type <U1 are not known"),
        (torch.zeros(3, 16, 20, dtype=torch.int32), r"pixels of type int32 are not known"),
        (torch.full((3, 16, 20), float("nan")), "NaN or infinite"),
        (np.full((16, 20, 3), -np.inf, np.float32), "NaN or infinite"),
        (torch.full((3, 16, 20), 255.0), r"must lie in \[-1, 1\], got 255"),
        (np.zeros((0, 2, 3), np.uint8), "2x0 pixels is empty"),
        (torch.zeros(3, 40, 0), "0x40 pixels is empty"),
        (Image.new("F", (16, 16)), "floating-point pixels"),
        (7, "type int is not known"),
        (None, "type NoneType is not known"),
        (
            [np.zeros((16, 16, 3), np.uint8), {}],
            r"^image 1 of the list \(counted from 0\): an image of type dict",
        ),
        ([pixels(8, 8, 3), pixels(8, 8)], r"^image 1 of the list \(counted from 0\): an array is \[H, W, C\]"),
        (
            (torch.zeros(3, 8, 8), torch.zeros(3, 0, 8)),
            r"^image 1 of the list \(counted from 0\): .*8x0 pixels",
        ),
        (
            [Image.new("F", (16, 16))],
            r"^image 0 of the list \(counted from 0\): the PIL image cannot be used",
        ),
        ("nowhere.png", r"^nowhere\.png: the file does not exist"),
        ([pixels(8, 8, 3), "nowhere.png"], r"^nowhere\.png: the file does not exist"),
        ("https://x.y/z.jpg?a=1", r"^https://x\.y/z\.jpg\?a=1: URLs are not fetched: download it, and give its bytes"),
        (Path("https://x.y/z.jpg"), r"^https://x\.y/z\.jpg: URLs are not fetched: download it, and give its bytes"),
    ],
)
def test_wrong_images_are_refused(images, reason, user_sees):
    engine = Identity()
    with pytest.raises(UserError, match=reason) as error:
        infer(engine, images)
    user_sees(error.value)
    assert engine.seen == []


def test_the_message_about_one_image_of_a_stream_has_its_number_in_the_whole_stream():
    images = (pixels(8, 8, 3) if i != 6 else b"bad" for i in range(9))
    translated = infer(Identity(), images, batch_size=1)
    assert sum(1 for _ in itertools.islice(translated, 6)) == 6
    with pytest.raises(UserError, match=r"^image 6 of the iterator \(counted from 0\): the encoded image: not"):
        next(translated)


def test_what_looks_like_a_url_and_exists_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "https:" / "x.y").mkdir(parents=True)
    Image.fromarray(pixels(8, 8, 3)).save("https:/x.y/z.png")
    assert infer(Identity(), "https://x.y/z.png").size == (8, 8)


@pytest.mark.fault(1, 2)
def test_bad_files_are_refused_by_name(tmp_path, user_sees):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"text\.jpg: not an image") as error:
        infer(Identity(), tmp_path / "text.jpg")
    user_sees(error.value, 1)
    path = tmp_path / "cut.png"
    Image.fromarray(pixels(64, 64, dtype=np.uint16)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"cut\.png: damaged") as error:
        infer(Identity(1), path)
    user_sees(error.value, 2)
    with Image.open(path) as lazy, pytest.raises(UserError, match="the PIL image cannot be used"):
        infer(Identity(1), lazy)


@pytest.mark.fault(3)
def test_a_bomb_is_refused_from_its_header(tmp_path, user_sees):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(30_000, 30_000))
    with pytest.raises(UserError, match=r"bomb\.png: too many pixels") as error:
        infer(Identity(), path)
    user_sees(error.value)


def test_a_result_that_is_not_finite_is_refused():
    class Broken(Identity):
        def _compute(self, batch):
            return batch * float("nan")

    with pytest.raises(UserError, match="identity returned pixels that are not finite"):
        infer(Broken(), pixels(8, 8, 3))


@pytest.mark.parametrize("batch_size", [0, -2, "2", 1.5, None])
def test_a_batch_size_that_counts_nothing_is_refused(batch_size):
    with pytest.raises(UserError, match="batch_size must be a whole number of at least 1"):
        infer(Identity(), pixels(8, 8, 3), batch_size=batch_size)


def test_an_engine_is_wanted_not_its_path():
    with pytest.raises(UserError, match=r"takes an engine first, got str: give what load_engine\(path\) returns"):
        infer("runs/demo", pixels(8, 8, 3))


def test_results_do_not_depend_on_the_batch(runs):
    engine = load_engine(runs["colour"], device="cpu")
    x = torch.rand(5, 3, 16, 20) * 2 - 1
    alone = torch.stack([infer(engine, image) for image in x])
    for batch_size in (1, 2, 5):
        torch.testing.assert_close(infer(engine, x, batch_size=batch_size), alone, rtol=0, atol=1e-5)


def test_results_may_be_differentiated_through(runs):
    made = infer(load_engine(runs["colour"], device="cpu"), torch.zeros(1, 3, 16, 16))
    weight = torch.ones(3, requires_grad=True)
    (made * weight.view(3, 1, 1)).sum().backward()
    assert weight.grad is not None and not made.requires_grad


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_threads_may_share_an_engine(runs, onnx_files, kind):
    engine = load_engine(runs["colour"] if kind == "torch" else onnx_files["colour"], device="cpu")
    images = [pixels(12 + 4 * (i % 3), 16, 3, seed=i) for i in range(12)]
    expected = [infer(engine, image) for image in images]
    made = [None] * len(images)

    def work(start):
        for i in range(start, len(images), 4):
            made[i] = infer(engine, images[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(made, expected, strict=True):
        np.testing.assert_array_equal(a, b)
