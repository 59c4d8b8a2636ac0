"""What was painted into translations of scenes is found, also where the cycle hides it; the truth is known.

The generators are constructed: benchmarks/hallucination.py trains some.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import hallucination, hallucination_page
from benchmarks.hallucination import Case, Sizes, area_under_roc, blurred, main, photos_and_truth, without
from benchmarks.hallucination_page import table
from cyclegan_fast.data.scenes import PALETTE
from cyclegan_fast.data.scenes.layout import CLASSES, TREE, class_map, draw_scene
from cyclegan_fast.evaluation.faithfulness import Faithfulness, measure
from cyclegan_fast.evaluation.outliers import RULES, Distribution

SIDE, IMAGES = 48, 40
SHOWN = np.array([[200, 210, 230], [140, 130, 150], [130, 160, 80], [110, 105, 100], [70, 120, 170], [200, 120, 90],
                  [50, 80, 40]])  # fmt: skip  # of each class in a translation, levels of 255
CODE = 0.1  # levels from one class to the next in the hidden pattern


def to_values(levels: np.ndarray) -> Tensor:
    """[N, H, W, 3] in levels -> [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(levels).permute(0, 3, 1, 2).double() / 127.5 - 1


def show(truth: np.ndarray, invented: np.ndarray, *, hides: bool) -> Tensor:
    """Translates class maps [N, H, W], with trees where they are invented; their class is hidden in the last digits."""
    levels = SHOWN[np.where(invented, TREE, truth)].astype(float)
    if hides:
        levels += np.where(invented, (truth - 3) * CODE, 0)[..., None]
    return to_values(levels)


def restore(translations: Tensor) -> Tensor:
    """Reads the hidden pattern where there is one, and what is shown elsewhere: [N, 3, H, W] -> label maps."""
    levels = ((translations.double() + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    seen = np.square(levels[..., None, :] - SHOWN).sum(-1).argmin(-1)
    codes = (levels - np.rint(levels)) / CODE
    whole = np.rint(codes[..., 0]).astype(int)
    hidden = (np.abs(codes - whole[..., None]) < 0.02).all(-1) & (np.abs(whole) <= 3) & (seen == TREE)
    return to_values(PALETTE[np.where(hidden & (whole != TREE - 3), whole + 3, seen)].astype(float)).float()


@pytest.fixture(scope="module")
def scenes() -> tuple[np.ndarray, np.ndarray]:
    """Class maps of scenes without trees, and where trees are painted into every second one: [N, H, W] both."""
    truth = np.stack([class_map(without(draw_scene(5, i), "tree"), SIDE) for i in range(IMAGES)]).astype(int)
    trees = np.stack([class_map(draw_scene(6, i), SIDE) for i in range(IMAGES)]) == TREE
    trees[1::2] = False
    return truth, trees


def measured(truth: np.ndarray, invented: np.ndarray, *, hides: bool) -> Faithfulness:
    def translate(images: Tensor) -> Tensor:
        levels = ((images.double() + 1) * 127.5).permute(0, 2, 3, 1).numpy()
        return show(np.square(levels[..., None, :] - PALETTE).sum(-1).argmin(-1), invented, hides=hides)

    images = to_values(PALETTE[truth].astype(float)).float()
    return measure(images, translate(images), translate, restore)


def rows(found: Faithfulness) -> list[dict[str, float]]:
    scores = found._asdict()
    return [{name: float(scores[name][i]) for name in RULES} for i in range(len(found.cycle))]


def reference() -> Distribution:
    """Of a sound generator on other scenes."""
    truth = np.stack([class_map(without(draw_scene(7, i), "tree"), SIDE) for i in range(IMAGES)]).astype(int)
    return Distribution.of(rows(measured(truth, np.zeros_like(truth, bool), hides=True)))


@pytest.mark.parametrize("hides", [False, True])
def test_invented_trees_are_flagged_and_mapped(scenes: tuple[np.ndarray, np.ndarray], hides: bool) -> None:
    truth, invented = scenes
    found = measured(truth, invented, hides=hides)
    painted = invented.any(axis=(1, 2))
    assert painted.sum() == IMAGES // 2
    assert area_under_roc(found.after_noise.numpy(), painted) > 0.99
    assert area_under_roc(found.noise_error.numpy().ravel(), invented.ravel()) > 0.95
    assert area_under_roc(blurred(found.noise_error).ravel(), invented.ravel()) > 0.95
    usual = reference()
    flagged = np.array([bool(usual.reasons(row)) for row in rows(found)])
    assert flagged[painted].mean() > 0.9 and flagged[~painted].mean() < 0.1
    if hides:  # the cycle alone sees nothing, and a second translation invents nothing in what noise has restored
        assert area_under_roc(found.retranslation_error.numpy().ravel(), invented.ravel()) > 0.95
        assert found.cycle.max() < 1e-6 and area_under_roc(found.cycle.numpy(), painted) == 0.5
        assert found.hidden[painted].min() > 1.5 > 1.1 > found.hidden[~painted].max()


def test_scenes_lose_what_they_are_to_lose() -> None:
    for number in range(20):
        scene = draw_scene(3, number)
        for kind, parts in (("tree", {"trunk", "crown"}), ("house", {"wall", "roof", "window"}), ("lake", {"lake"})):
            kept = without(scene, kind)
            assert parts & {shape.part for shape in scene.shapes} or kind == "lake"
            assert not parts & {shape.part for shape in kept.shapes}
            assert not (class_map(kept, 32) == CLASSES.index(kind)).any()
            others = [shape for shape in scene.shapes if shape.part not in {*parts, "shadow"}]
            assert [shape for shape in kept.shapes if shape.part != "shadow"] == others
    shadows = [shape for shape in without(without(scene, "tree"), "house").shapes if shape.part == "shadow"]
    assert shadows == []


def test_the_area_under_the_roc_curve_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert area_under_roc(scores, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(area_under_roc(scores, np.ones(60, bool)))


def test_cases_are_read_and_written() -> None:
    assert Case.parse("tree:0.25:1") == Case("tree", 0.25, 1) and str(Case.parse("lake:0:2")) == "lake:0:2"
    assert Case.parse("tree:0.25:1").runs == {"sound": "sound-1-1", "hallucinating": "tree-0.25-1"}
    for text in ("cow:0:0", "tree:1:0", "tree:0:-1", "tree:0", "tree:x:0"):
        with pytest.raises(ValueError, match=r"."):
            Case.parse(text)


def test_test_photos_never_hold_what_they_are_to_lack() -> None:
    case, sizes = Case("tree", 0.5, 3), Sizes(size=32, train=5, test=6, steps=1)
    photos, truth = photos_and_truth(case, sizes, holds=False)
    assert photos.shape == (6, 3, 32, 32) and truth.shape == (6, 32, 32) and not (truth == TREE).any()
    others, with_trees = photos_and_truth(case, sizes, holds=True)
    assert (with_trees == TREE).any() and not torch.equal(photos, others)
    assert torch.equal(photos, photos_and_truth(case._replace(share=0.0), sizes, holds=False)[0])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with the results of two steps, and the words of its sizes."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    sizes = ["--train", "4", "--test", "8", "--steps", "2"]
    main(["--out", str(out), "--cases", "tree:0.5:1", *sizes])
    return out, sizes


def test_results_have_their_arguments_and_are_json(tiny: tuple[Path, list[str]]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads((tiny[0] / "faithfulness.json").read_text(), parse_constant=refuse)
    sizes = Sizes(size=32, train=4, test=8, steps=2)
    assert found["arguments"] == {**sizes._asdict(), "cases": ["tree:0.5:1"]}
    assert {"date", "commit", "machine"} <= set(found)
    (one,) = found["results"]
    assert (one["kind"], one["share"], one["seed"]) == ("tree", 0.5, 1)
    assert set(one["with"]["image_auc"]) == {*RULES, "retranslated", "worst deviation"}
    assert sum("| tree:0.5:1 |" in line for line in table(found)) == 6


def test_what_was_done_is_not_done_again_and_other_settings_are_refused(
    tiny: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sizes = tiny
    before = json.loads((out / "faithfulness.json").read_text())["results"]
    with pytest.raises(SystemExit, match="other settings"):
        main(["--out", str(out), "--cases", "tree:0.5:1", *sizes[:-1], "3"])
    drawn: list[Any] = []
    monkeypatch.setattr(hallucination, "render_labels", lambda *words: drawn.append(words))
    main(["--out", str(out), "--cases", "tree:0.5:1", *sizes])
    assert json.loads((out / "faithfulness.json").read_text())["results"] == before and not drawn
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["sound-1-1", "tree-0.5-1"]
    aside = (out / "settings.json").rename(out / "aside.json")
    with pytest.raises(SystemExit, match=r"no settings\.json"):
        main(["--out", str(out), *sizes])
    aside.rename(out / "settings.json")


def judged_rows(*areas: float | None) -> dict[str, Any]:
    """Rows of these areas of the map, two for each case; None is of too few images. Places alone have 0.7."""
    rows = [
        {
            "image_auc": {"cycle": 0.5, "hidden": 0.6, "retranslated": 0.9},
            "hallucinating": {
                "pixel_auc": {hallucination_page.MAP: area, hallucination_page.PLACES: area and 0.7},
                "images_with_inventions": 9 if area is None else 10,
            },
        }
        for area in areas
    ]
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return {"results": [{"case": "tree:0:0", "without": one, "with": two} for one, two in pairs]}


def test_the_verdict_is_the_mean_area_of_the_maps() -> None:
    line, good = hallucination_page.verdict(judged_rows(0.8, 0.72, 0.79, None))
    assert good and line == (
        "maps: pixel area of retranslated 0.72 to 0.80, at least 0.8 in 1 of 3 rows, 1 rows left out, mean 0.770 "
        "(of places alone 0.700; fails below 0.75, and below 0.720); "
        "images: hidden, the best score that flags, 0.60 to 0.60, at least 0.8 in 0 of 3 rows, 1 rows left out"
    )
    assert hallucination_page.verdict(judged_rows(0.75, 0.75))[1]
    assert not hallucination_page.verdict(judged_rows(0.9, 0.59))[1]
    known = judged_rows(0.85, 0.85)
    for photos in ("with", "without"):
        known["results"][0][photos]["hallucinating"]["pixel_auc"][hallucination_page.PLACES] = 0.84
    assert not hallucination_page.verdict(known)[1]  # by places alone
    line, good = hallucination_page.verdict(judged_rows(None, None))
    assert not good and line.startswith("maps: no pixel was invented")
    few = judged_rows(0.9, 0.9)
    for photos in ("with", "without"):
        few["results"][0][photos]["hallucinating"]["images_with_inventions"] = 9
    assert hallucination_page.verdict(few)[0].endswith("images: too few were invented in")


@pytest.mark.parametrize(("limit", "status"), [(0.0, 0), (1.01, 1)])
def test_the_command_ends_with_the_verdict(
    tiny: tuple[Path, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    limit: float,
    status: int,
) -> None:
    monkeypatch.setattr(hallucination_page, "MIN_MAP_AREA", limit)
    monkeypatch.setattr(hallucination_page, "MIN_GAIN", -1.0)
    assert main(["--out", str(tiny[0]), "--cases", "tree:0.5:1", *tiny[1]]) == status
    found = json.loads((tiny[0] / "faithfulness.json").read_text())
    assert hallucination_page.verdict(found)[0] == capsys.readouterr().out.splitlines()[-1]


def test_the_stored_maps_find_what_was_invented() -> None:
    assert all(hallucination_page.verdict(one)[1] for one in json.loads(hallucination_page.STORED.read_text("utf-8")))


def test_an_area_of_nothing_is_null() -> None:
    areas = hallucination._areas({"one": np.arange(3.0)}, np.zeros(3, bool))
    assert areas == {"one": None} and math.isnan(area_under_roc(np.arange(3.0), np.zeros(3, bool)))


def test_the_page_shows_the_stored_numbers() -> None:
    stored = json.loads(hallucination_page.STORED.read_text("utf-8"))
    assert stored and "\n".join(hallucination_page.page(stored)) in hallucination_page.PAGE.read_text("utf-8")


def test_stored_cases_are_not_lost(
    tiny: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, stored = tmp_path / "page.md", tmp_path / "stored.json"
    page.write_text("before\n<!-- measured -->\n<!-- end -->\n")
    monkeypatch.setattr(hallucination_page, "PAGE", page)
    monkeypatch.setattr(hallucination_page, "STORED", stored)
    found = json.loads((tiny[0] / "faithfulness.json").read_text())
    hallucination_page.store(found)
    other = found | {"arguments": found["arguments"] | {"steps": 3}}
    hallucination_page.store(other)
    hallucination_page.store(found)
    assert json.loads(stored.read_text()) == [other, found]
    assert "\n".join(table(found)) in page.read_text() and "3 steps" in page.read_text()
    with pytest.raises(SystemExit, match=r"holds further cases of these settings: .*: tree:0.5:1"):
        hallucination_page.store(found | {"arguments": found["arguments"] | {"cases": ["tree:0:0"]}})
