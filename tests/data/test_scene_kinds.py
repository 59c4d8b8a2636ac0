"""The kinds of scenes: their two domains differ where they should, and nowhere else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.data.scenes import CLASSES, KINDS, class_map, draw_scene, render_dataset, render_labels, render_photo
from cyclegan_fast.data.scenes.brush import paint
from cyclegan_fast.data.scenes.layout import HOUSE, TREE, with_houses_alone, with_trees_alone
from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluation import load_scene_tests

SIZE = 64
SCENES = [draw_scene(3, number) for number in range(6)]


def both(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Some scenes as both domains of a kind show them, float [N, H, W, 3]."""
    renders = KINDS[kind].render_A, KINDS[kind].render_B
    a, b = (np.stack([render(scene, SIZE) for scene in SCENES]).astype(float) for render in renders)
    return a, b


def truths(kind: str) -> np.ndarray:
    return np.stack([KINDS[kind].render_truth(scene, SIZE) for scene in SCENES])


def test_labels_and_photos_are_those_of_earlier_versions() -> None:
    found = hashlib.sha256()
    for number in range(4):
        found.update(render_photo(draw_scene(0, number), 64).tobytes())
        found.update(render_labels(draw_scene(0, number), 64).tobytes())
    assert found.hexdigest() == "b5ac4bc7295b50c3532c433c3b1642727c1d6d40b6748faa00be85387a817384"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_rendered_the_same_each_time_and_says_what_it_is(tmp_path: Path, kind: str) -> None:
    for name in ("one", "two"):
        render_dataset(tmp_path / name, 32, train=2, test=2, seed=4, kind=kind)
    one, two = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    )
    assert one == two and len(one) == 11
    assert json.loads((tmp_path / "one" / "scenes.json").read_text())["kind"] == kind
    for name in ("00000", "00001"):
        images = [
            np.asarray(Image.open(tmp_path / "one" / folder / f"{name}.jpg"), float) for folder in ("testA", "testB")
        ]
        assert np.abs(images[0] - images[1]).max() > 30
        truth = np.asarray(Image.open(tmp_path / "one" / "truth" / f"{name}.png"))
        assert np.array_equal(truth, KINDS[kind].render_truth(draw_scene(4, int(name)), 32))


def test_striped_houses_stand_in_the_very_same_scenes() -> None:
    a, b = both("transfiguration")
    house = truths("transfiguration") == HOUSE
    error = np.abs(a - b).mean(axis=3)
    assert error[house].mean() > 40
    near = np.zeros_like(house)  # the edge of a house shows in the pixels around it
    for rows, columns in np.ndindex(3, 3):
        near |= np.roll(house, (rows - 1, columns - 1), axis=(1, 2))
    assert (error[~near] > 0).mean() < 1e-3  # specks of houses, less than half a pixel


def test_winter_is_white_where_grass_was() -> None:
    summer, winter = both("seasons")
    grass = truths("seasons") == CLASSES.index("grass")
    assert winter[grass].min(axis=1).mean() > 180 > 120 > summer[grass].min(axis=1).mean()
    road = truths("seasons") == CLASSES.index("road")
    assert np.median(np.abs(summer - winter)[road]) == 0


def test_a_painting_has_strokes_in_vivid_colours() -> None:
    painting, photo = both("style")
    assert (painting.max(axis=3) - painting.min(axis=3)).mean() > 1.3 * (photo.max(axis=3) - photo.min(axis=3)).mean()
    flat = paint(np.full((SIZE, SIZE, 3), 100, np.float32), SCENES[0]).mean(axis=2)
    neighbours = np.abs(np.diff(flat, axis=1)).mean()
    assert flat.std() > 2 and neighbours < 0.8 * np.abs(flat[:, 16:] - flat[:, :-16]).mean()  # strokes, and no noise


def test_a_camera_is_sharp_in_front_and_blurred_behind() -> None:
    phone, camera = both("enhancement")
    hills = truths("enhancement") == CLASSES.index("hills")
    house = truths("enhancement") == HOUSE
    sharp = [np.abs(np.diff(images, axis=2)).mean(axis=3) for images in (phone, camera)]
    assert sharp[1][hills[:, :, 1:]].mean() < 0.5 * sharp[0][hills[:, :, 1:]].mean()  # and less noise
    assert sharp[1][house[:, :, 1:]].mean() > sharp[0][house[:, :, 1:]].mean()  # and more contrast


def test_houses_and_trees_change_places() -> None:
    for scene in SCENES:
        houses, trees = (class_map(change(scene), SIZE) for change in (with_houses_alone, with_trees_alone))
        assert TREE not in houses and HOUSE not in trees
        before = class_map(scene, SIZE)
        assert ((houses == HOUSE) & (before == HOUSE)).sum() > 0.4 * (before == HOUSE).sum()
        assert (trees == TREE).any() and (houses == HOUSE).any()
    a, b = both("geometry")
    assert np.array_equal(truths("geometry"), np.stack([class_map(with_houses_alone(scene), SIZE) for scene in SCENES]))
    assert np.abs(a - b).mean() > 3


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--kind must be one of labels, style, .* got season, did you mean 'seasons'"):
        render_dataset(tmp_path / "x", 32, 1, 0, 0, kind="season")
    assert not (tmp_path / "x").exists()


def test_other_kinds_are_not_scored_as_labels(tmp_path: Path) -> None:
    render_dataset(tmp_path / "x", 32, 1, 1, 0, kind="seasons")
    with pytest.raises(UserError, match=r"scenes of the kind 'seasons', .* --against .*testB --paired"):
        load_scene_tests(tmp_path / "x")
