"""What was painted into translations of scenes is found, also where the cycle hides it; the truth is known.

The generators are constructed: benchmarks/hallucination.py trains some.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.hallucination import area_under_roc, blurred, without
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
    images = to_values(PALETTE[truth].astype(float)).float()
    return measure(images, show(truth, invented, hides=hides), restore)


def flags(found: Faithfulness, reference: Distribution) -> list[bool]:
    scores = [{name: float(getattr(found, name)[i]) for name in RULES} for i in range(len(found.cycle))]
    return [bool(reference.reasons(one)) for one in scores]


def reference() -> Distribution:
    """Of a sound generator on other scenes."""
    truth = np.stack([class_map(without(draw_scene(7, i), "tree"), SIDE) for i in range(IMAGES)]).astype(int)
    sound = measured(truth, np.zeros_like(truth, bool), hides=True)
    return Distribution.of([{name: float(getattr(sound, name)[i]) for name in RULES} for i in range(IMAGES)])


@pytest.mark.parametrize("hides", [False, True])
def test_invented_trees_are_flagged_and_mapped(scenes: tuple[np.ndarray, np.ndarray], hides: bool) -> None:
    truth, invented = scenes
    found = measured(truth, invented, hides=hides)
    painted = invented.any(axis=(1, 2))
    assert painted.sum() == IMAGES // 2
    assert area_under_roc(found.after_noise.numpy(), painted) > 0.99
    assert area_under_roc(found.noise_error.numpy().ravel(), invented.ravel()) > 0.95
    assert area_under_roc(blurred(found.noise_error).ravel(), invented.ravel()) > 0.95
    flagged = np.array(flags(found, reference()))
    assert flagged[painted].mean() > 0.9 and flagged[~painted].mean() < 0.1
    if hides:  # the cycle alone sees nothing
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
