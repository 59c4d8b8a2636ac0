"""translate --output zebra.png: one image or video becomes that very file."""

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.engine import infer, load_engine
from cyclegan_fast.engine.translation.tasks import plan_tasks
from cyclegan_fast.errors import UserError
from cyclegan_fast.translate import translate
from tests.engine.test_inference import pixels


@pytest.fixture
def horse(tmp_path):
    Image.fromarray(pixels(20, 24, 3)).save(tmp_path / "horse.png")
    (tmp_path / "ride.mp4").touch()
    return tmp_path / "horse.png"


@pytest.mark.parametrize(
    ("name", "kind"), [("zebra.png", "PNG"), ("new/zebra.jpg", "JPEG"), ("zebra.TIF", "TIFF"), ("zebra.webp", "WEBP")]
)
def test_one_image_becomes_the_file_that_is_named_in_its_format(name, kind, horse, tmp_path, runs, capsys):
    out = tmp_path / name
    options = {"engine": runs["colour"], "input": horse, "output": out, "device": "cpu", "threads": 1}
    assert translate(**options) == 0
    assert capsys.readouterr().out.startswith(f"1 of 1 file is written: {out} (")
    with Image.open(out) as made:
        assert made.format == kind and made.size == (24, 20)
        if kind in ("PNG", "TIFF"):
            expected = infer(load_engine(runs["colour"], device="cpu"), horse)
            np.testing.assert_array_equal(np.asarray(made), np.asarray(expected))
    with pytest.raises(UserError, match=r"exists already: choose another file, or use --overwrite$"):
        translate(**options)
    assert translate(**options, resume=True) == 0
    assert translate(**options, overwrite=True) == 0


def test_a_name_without_a_known_suffix_is_a_folder_as_is_one_that_exists(horse, tmp_path):
    (tmp_path / "folder.png").mkdir()
    for name in ("zebras", "v1.2", "folder.png"):
        (task,) = plan_tasks(horse, tmp_path / name)
        assert task.target == tmp_path / name / "horse.png"


def test_the_format_of_a_source_with_a_wrong_name_stays_where_the_suffix_does(horse, tmp_path, runs):
    wrong = horse.rename(tmp_path / "horse.jpg")
    assert translate(engine=runs["colour"], input=wrong, output=tmp_path / "zebra.jpeg", device="cpu") == 0
    with Image.open(tmp_path / "zebra.jpeg") as made:
        assert made.format == "PNG"


@pytest.mark.parametrize(
    ("source", "output", "options", "reason"),
    [
        ("", "zebra.png", {}, r"names a file, but the input \S+ is a folder: name a folder$"),
        ("*.png", "zebra.png", {}, r"names a file, but the input \S+ is a pattern: name a folder$"),
        ("horse.png", "zebra.mp4", {}, r"zebra\.mp4: an image is written as \.apng, .*: choose such a name"),
        ("horse.png", "zebra.heic", {}, r"zebra\.heic: an image is written as \.apng, "),
        ("ride.mp4", "zebra.png", {}, r"zebra\.png: a video is written as \.m4v, \.mkv, \.mov, \.mp4: choose"),
        ("horse.png", "horse.png", {}, r"horse\.png is one of the inputs and would be overwritten"),
        ("horse.png", "zebra.png", {"reconstruct": True}, "names a file, and --reconstruct writes a grid, too"),
        ("", "notes", {}, r"notes names a file, but the input \S+ is a folder"),
    ],
)
def test_what_cannot_become_that_file_is_one_sentence(source, output, options, reason, horse, tmp_path):
    (tmp_path / "notes").touch()
    with pytest.raises(UserError, match=reason) as caught:
        plan_tasks(tmp_path / source if source else tmp_path, tmp_path / output, **options)
    assert "\n" not in str(caught.value)


def test_a_video_may_be_named_too(horse, tmp_path):
    (task,) = plan_tasks(tmp_path / "ride.mp4", tmp_path / "zebra.mkv")
    assert task.is_video and task.target == tmp_path / "zebra.mkv"
