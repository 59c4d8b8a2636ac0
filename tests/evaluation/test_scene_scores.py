from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclegan_fast.data.scenes import CLASSES, PALETTE, class_map, draw_scene, render_dataset, render_photo
from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluation import score_scenes, train_reader
from cyclegan_fast.evaluation.reader import READING_SIDE
from cyclegan_fast.evaluation.scenes import load_scene_tests, nearest_classes, segmentation_scores


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    render_dataset(folder, 64, train=1, test=24, seed=0)
    return folder


def oracle(asked: Tensor, answers: Tensor) -> Callable[[Tensor], Tensor]:
    """A translator that knows the truth: it looks the image up in `asked` and gives its partner of `answers`."""
    return lambda images: torch.stack([answers[(asked - x).abs().sum(dim=(1, 2, 3)).argmin()] for x in images])


def test_scores_of_a_perfect_and_of_no_translation(scenes: Path) -> None:
    tests = load_scene_tests(scenes)
    reader = train_reader(tests.size, tests.seed)
    to_labels, to_photos = oracle(tests.photos, tests.labels), oracle(tests.labels, tests.photos)
    scores = score_scenes(to_labels, to_photos, tests, reader, batch_size=5)
    labels, photos, ceiling = scores["photo_to_labels"], scores["labels_to_photo"], scores["ceiling"]
    assert labels["pixel_accuracy"] > 0.999 and labels["class_iou"] > 0.99 and labels["l1"] == 0.0
    assert photos["l1"] == 0.0 and {k: v for k, v in photos.items() if k != "l1"} == ceiling
    assert ceiling["pixel_accuracy"] >= 0.97
    none = scores["untranslated"]
    assert 0.60 < none["photo_to_labels"]["pixel_accuracy"] < 0.75
    assert 0.50 < none["photo_to_labels"]["class_accuracy"] < 0.70
    assert none["labels_to_photo"]["pixel_accuracy"] < ceiling["pixel_accuracy"] - 0.1
    assert none["photo_to_labels"]["l1"] == pytest.approx(float((tests.photos - tests.labels).abs().mean()) / 2)
    assert (scores["images"], scores["size"]) == (24, 64)


def test_segmentation_scores_by_hand() -> None:
    truth = np.array([[0, 0, 0, 1], [1, 1, 2, 2]])
    read = np.array([[0, 0, 1, 1], [1, 1, 2, 3]])
    scores = segmentation_scores(read, truth)
    assert scores["pixel_accuracy"] == pytest.approx(6 / 8)
    assert scores["class_accuracy"] == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert scores["class_iou"] == pytest.approx((2 / 3 + 3 / 4 + 1 / 2) / 3)


def test_nearest_label_colour() -> None:
    colours = torch.from_numpy(PALETTE).float().T.reshape(1, 3, 1, len(CLASSES)) / 127.5 - 1.0
    assert nearest_classes(colours + 0.1).tolist() == [[list(range(len(CLASSES)))]]


def test_reader_is_deterministic_and_leaves_the_global_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan_fast.evaluation.reader._STEPS", 5)
    monkeypatch.setattr("cyclegan_fast.evaluation.reader._SCENES", 8)
    before = torch.random.get_rng_state()
    one, two = train_reader(32, seed=1).state_dict(), train_reader(32, seed=1).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = train_reader(32, seed=2).state_dict()
    assert not torch.equal(one["fine.0.weight"], other["fine.0.weight"])


def test_larger_photos_are_read_at_the_reading_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclegan_fast.evaluation.reader._STEPS", 2)
    monkeypatch.setattr("cyclegan_fast.evaluation.reader._SCENES", 2)
    photo = torch.from_numpy(render_photo(draw_scene(0, 0), 96)).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    assert train_reader(96, seed=0).read(photo).shape == (1, READING_SIDE, READING_SIDE)


def test_what_is_no_scenes_data_set(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a scenes data set"):
        load_scene_tests(tmp_path)
    render_dataset(tmp_path, 32, train=1, test=0, seed=0)
    with pytest.raises(UserError, match="testA is missing"):
        load_scene_tests(tmp_path)
    render_dataset(tmp_path / "second", 32, train=1, test=2, seed=0)
    (tmp_path / "second" / "truth" / "00001.png").unlink()
    with pytest.raises(UserError, match=r"truth/00001\.png: the class map"):
        load_scene_tests(tmp_path / "second")
    facts = tmp_path / "second" / "scenes.json"
    facts.write_text(facts.read_text().replace("126", "125", 1))
    with pytest.raises(UserError, match="other label colours"):
        load_scene_tests(tmp_path / "second")
    assert len(load_scene_tests(scenes, limit=3).truth) == 3
    assert np.array_equal(load_scene_tests(scenes).truth[4], class_map(draw_scene(0, 4), 64))
