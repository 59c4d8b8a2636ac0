"""docs/gallery.md: its commands are those that its program runs, and its scores those that were stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import gallery
from benchmarks.gallery import (
    IMAGES,
    NUMBERS,
    PAGE,
    Translations,
    coarse,
    draw,
    l1,
    mean_colours,
    page_lines,
    scores,
    table,
)
from benchmarks.gallery_recipes import RECIPES, UNFAMILIAR, Recipe, unfamiliar_command
from cyclegan_fast.data.scenes import KINDS

MAX_BYTES = 1_000_000  # of all images


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_page_shows_the_commands_and_an_image(recipe: Recipe) -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    for command in (recipe.render, recipe.train, *recipe.translations):
        assert f"    {command}" in lines
    assert any(f"(images/gallery/{recipe.name}.jpg)" in line for line in lines) and f"## {recipe.title}" in lines
    assert recipe.seen and " ".join(recipe.seen.split()) in " ".join(lines)
    with Image.open(IMAGES / f"{recipe.name}.jpg") as image:
        assert image.width > 1000 and image.height > 500


def test_every_kind_of_photos_has_its_part_and_all_of_it_is_small() -> None:
    assert {recipe.name for recipe in RECIPES} == set(KINDS) - {"labels"}
    assert {path.stem for path in IMAGES.iterdir()} == {recipe.name for recipe in RECIPES} | {UNFAMILIAR}
    text = PAGE.read_text("utf-8")
    assert text.count("\n## ") == len(RECIPES) + 1
    assert f"    {unfamiliar_command()}" in text.splitlines()
    assert sum(path.stat().st_size for path in IMAGES.iterdir()) < MAX_BYTES


def test_the_page_is_what_its_numbers_give() -> None:
    numbers = json.loads(NUMBERS.read_text("utf-8"))
    assert "\n".join(page_lines(numbers)) in PAGE.read_text("utf-8")
    for measured in numbers.values():
        assert measured["date"] and measured["commit"] and measured["machine"]["cpu"] and measured["extension"]


def test_the_images_are_those_that_the_commands_wrote(root: Path) -> None:
    """Each command is run as it is shown; a stand-in for it writes what it was given, one level higher."""
    recipe = RECIPES[0]
    write_scenes(root / "data" / "gallery" / recipe.name)
    gallery.run_translations(recipe.translations)
    for direction, level in (("AtoB", 0), ("BtoA", 100)):
        found = gallery.read_translations(recipe, direction)
        assert [int(images.min()) for images in found] == [level, level + 1, level + 2, 100 - level]
        assert [int(image.max()) for image in found.translated] == [level + 1, level + 2, level + 3]
    old = root / "runs" / "gallery" / "translated" / recipe.name / "AtoB" / "old.png"
    old.touch()
    gallery.run_translations(recipe.translations)
    assert not old.exists()


def test_what_was_flagged_is_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gallery.IMAGES", root / "images")
    write_scenes(root / "data" / "gallery" / "seasons")
    measured = gallery.measure_unfamiliar()
    assert measured["results"] == [{"images": 3, "flagged": 2}]
    assert "`--faithfulness` flagged 2 of these 3." in " ".join(gallery.unfamiliar_section(measured))
    with Image.open(root / "images" / f"{UNFAMILIAR}.jpg") as image:
        assert image.width > 6 * 16


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `translate` adds a level to each image and flags all but the first."""
    monkeypatch.setattr("benchmarks.gallery.ROOT", tmp_path)
    monkeypatch.setattr("benchmarks.gallery.run", lambda command: stand_in(tmp_path, command))
    return tmp_path


def stand_in(root: Path, command: str) -> None:
    words = command.split()
    source, output = (root / words[words.index(flag) + 1] for flag in ("--input", "--output"))
    output.mkdir(parents=True)
    for path in source.iterdir():
        Image.fromarray(np.asarray(Image.open(path)) + np.uint8(1)).save(output / path.name)
    if "--faithfulness" in words:
        (output / "faithfulness.csv").write_text("file,flagged,why\n0.png,no,\n1.png,yes,x\n2.png,yes,x; y\n")


def write_scenes(folder: Path) -> None:
    """Writes three test images of each domain, of one level each: 0, 1, 2 and 100, 101, 102."""
    for domain, level in (("testA", 0), ("testB", 100)):
        (folder / domain).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (level + i,) * 3).save(folder / domain / f"{i}.png")


def test_the_scores_are_mean_absolute_differences() -> None:
    draws = np.random.default_rng(0)
    images, others = draws.integers(0, 256, (2, 3, 16, 24, 3)).astype(np.uint8)
    total = sum(abs(int(a) - int(b)) for a, b in zip(images.ravel(), others.ravel(), strict=True))
    assert l1(images, others) == pytest.approx(total / images.size / 255)
    where = draws.random((3, 16, 24)) < 0.3
    inside = np.abs(images[where].astype(int) - others[where]).mean() / 255
    assert l1(images, others, where) == pytest.approx(inside) and l1(images, images) == 0
    where[1] = False
    assert mean_colours(images, where).shape == (2, 1, 1, 3)
    assert mean_colours(images, where)[1, 0, 0] == pytest.approx(images[2][where[2]].mean(axis=0))
    assert coarse(images).shape == (3, 2, 3, 3)
    assert coarse(images)[1, 1, 2] == pytest.approx(images[1, 8:16, 16:24].reshape(-1, 3).mean(axis=0))


def test_the_table_compares_each_direction_with_doing_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = {level: np.full((1, 8, 8, 3), level, np.uint8) for level in (0, 51, 102, 255)}
    of = {
        "AtoB": Translations(grey[0], grey[51], grey[0], grey[102]),
        "BtoA": Translations(grey[102], grey[0], grey[51], grey[0]),
    }
    classes = np.zeros((1, 8, 8), np.uint8)
    classes[0, 0, 0] = 5  # a house
    monkeypatch.setattr("benchmarks.gallery.class_maps", lambda _: classes)
    recipe = Recipe("x", "X", "style", ("a", "b"), "", objects=("house",))
    assert table(recipe, scores(recipe, of)) == [
        "| L1, lower is better | a to b | untranslated | b to a | untranslated |",
        "|---|---|---|---|---|",
        "| to the true counterpart | 0.200 | 0.400 | 0.000 | 0.400 |",
        "| ... where there are a | 0.200 | 0.400 | 0.000 | 0.400 |",
        "| ... of the mean colour there | 0.200 | 0.400 | 0.000 | 0.400 |",
        "| ... elsewhere | 0.200 | 0.400 | 0.000 | 0.400 |",
        "| ... of the means of 8x8 pixels | 0.200 | 0.400 | 0.000 | 0.400 |",
        "| of the reconstruction to the input | 0.000 | | 0.200 | |",
    ]


def test_the_image_shows_the_first_scenes_of_both_directions(tmp_path: Path) -> None:
    levels = np.arange(16, dtype=np.uint8)[:, None, None, None] * 10
    of = {d: Translations(*(np.broadcast_to(levels[:4] + i, (4, 8, 8, 3)) for i in range(4))) for d in ("AtoB", "BtoA")}
    image = np.asarray(draw(of))
    for level in (0, 1, 2, 3, 30, 31, 32, 33):
        assert (image == level).any()


def test_equal_numbers_keep_the_commit_that_trained_for_them() -> None:
    stored = {"commit": "one", "results": [{"loss": 0.5}]}
    assert not gallery.is_new({"commit": "two", "results": [{"loss": 0.5}]}, stored)
    assert gallery.is_new({"commit": "two", "results": [{"loss": 0.4}]}, stored) and gallery.is_new(stored, None)
