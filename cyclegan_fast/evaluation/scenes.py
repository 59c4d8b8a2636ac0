"""Scores a pair of translators on the scenes data set, as the paper scores them on Cityscapes (its section 5.1.1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast.data.locations.folders import list_domains
from cyclegan_fast.data.scenes import CLASSES, FACTS_NAME, PALETTE, TRUTH_FOLDER
from cyclegan_fast.data.scored_images import set_digest
from cyclegan_fast.documents import DocumentError, Maybe, Number, check, read_json, shown
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.evaluation.reader import Reader
from cyclegan_fast.images import load_images

Translate = Callable[[Tensor], Tensor]  # [N, 3, H, W] in [-1, 1] -> the same


@dataclass(frozen=True)
class SceneTests:
    """The test half of a scenes data set."""

    labels: Tensor  # [N, 3, H, W] in [-1, 1], what domain A shows
    photos: Tensor  # [N, 3, H, W] in [-1, 1], the same scenes in domain B
    truth: np.ndarray  # uint8 [N, H, W], the class of every pixel
    seed: int
    files: dict[str, list[str]]  # A and B: the files of labels and photos, below the data set's folder

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.photos.shape[-1]

    @property
    def protocol(self) -> str:
        """Which scenes these are, and what reads them, for people."""
        digest = set_digest((self.labels.numpy(), self.photos.numpy(), self.truth))
        return (
            f"{len(self.truth)} test scenes of {self.size}x{self.size} pixels (set {digest}), "
            f"photos read by the reader of seed {self.seed}"
        )


def score_scenes(
    translate_B_to_A: Translate | None,
    translate_A_to_B: Translate | None,
    tests: SceneTests,
    reader: Reader,
    *,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Translates the test scenes in both directions, or the one that there is, and scores the results.

    Args:
        translate_B_to_A: Translates photos into label maps, as in `translate_all`. None leaves this direction out.
        translate_A_to_B: Translates label maps into photos; None leaves this direction out.
        tests: The test scenes, from `load_scene_tests`.
        reader: What reads photos, from `train_reader` with the size and the seed of the test scenes.
        batch_size: Images translated at a time.

    Returns:
        As of `score_translations`.
    """
    labels = None if translate_B_to_A is None else translate_all(translate_B_to_A, tests.photos, batch_size)
    photos = None if translate_A_to_B is None else translate_all(translate_A_to_B, tests.labels, batch_size)
    return score_translations(labels, photos, tests, reader)


@torch.no_grad()
def translate_all(translate: Translate, images: Tensor, batch_size: int = 16) -> Tensor:
    """Translates images [N, 3, H, W] in [-1, 1] a batch at a time; the result is float32 on the CPU.

    Args:
        translate: Its input is on the device of the images, its output may be on any.
        images: What to translate.
        batch_size: Images at a time.
    """
    return torch.cat([translate(part).float().cpu() for part in images.split(batch_size)])


def score_translations(
    labels: Tensor | None, photos: Tensor | None, tests: SceneTests, reader: Reader
) -> dict[str, Any]:
    """Scores translations of the test scenes against the hidden truth.

    photo -> labels: the class of a pixel is that of the nearest label colour. labels -> photo: a reader trained on
    real photos of other scenes reads the classes back; what it scores on the real test photos is the ceiling.
    L1 is the mean absolute difference to the true image, in [0, 1] units.

    Args:
        labels: The test photos as label maps, float [N, 3, H, W] in [-1, 1] on the CPU; None leaves them out.
        photos: The test label maps as photos; None leaves them out.
        tests: The test scenes.
        reader: What reads photos.

    Returns:
        ``{"photo_to_labels": S, "labels_to_photo": S, "untranslated": {"photo_to_labels": S, "labels_to_photo": S},
        "ceiling": S without l1, "images": int, "size": int}``, each S being ``{"pixel_accuracy", "class_accuracy",
        "class_iou", "l1"}``.
    """
    scores: dict[str, Any] = {}
    if labels is not None:
        scores["photo_to_labels"] = _score_labels(labels, tests)
    if photos is not None:
        scores["labels_to_photo"] = _score_photos(photos, tests, reader)
    return scores | {
        "untranslated": {
            "photo_to_labels": _score_labels(tests.photos, tests),
            "labels_to_photo": _score_photos(tests.labels, tests, reader),
        },
        "ceiling": {k: v for k, v in _score_photos(tests.photos, tests, reader).items() if k != "l1"},
        "images": len(tests.truth),
        "size": tests.size,
    }


def load_scene_tests(root: Path, limit: int | None = None) -> SceneTests:
    """Reads the test scenes, all or the first `limit`, and their truth.

    Raises:
        UserError: `root` is no data set of labels and photos written by `render_dataset`, has no test scenes, was
            rendered by another version, or its side is no multiple of 4.
    """
    if not (root / FACTS_NAME).is_file():
        raise UserError(
            f"{root}: not a scenes data set (no {FACTS_NAME}); make one with python -m cyclegan_fast.dataset scenes"
        )
    try:
        info = read_json(root / FACTS_NAME)
        check(info, {"palette": [[Number(0, 255)]], "seed": Number(0), "kind": Maybe(str)})
    except (OSError, DocumentError) as error:
        raise UserError(f"{root / FACTS_NAME} is damaged ({error}); render the data set again") from error
    if (kind := info.get("kind") or "labels") != "labels":  # None: of an earlier version
        raise UserError(
            f"{root}: scenes of the kind {shown(kind)}, whose classes are no labels to be read; score translations of "
            f"testA with --images FOLDER --against {root / 'testB'} --paired"
        )
    if info["palette"] != PALETTE.tolist():
        raise UserError(f"{root}: rendered with other label colours, by another version; render the data set again")
    labels, photos = (paths[:limit] for paths in list_domains(root, "test"))
    if [path.stem for path in labels] != [path.stem for path in photos]:
        raise UserError(f"{root}: testA and testB do not hold the same scenes; render the data set again")
    truth = [np.asarray(Image.open(_truth_of(root, path))) for path in labels]
    files = {name: [os.path.relpath(path, root) for path in side] for name, side in (("A", labels), ("B", photos))}
    tests = SceneTests(load_images(labels), load_images(photos), np.stack(truth), info["seed"], files)
    if tests.size % 4:
        raise UserError(f"{root}: images of {tests.size} pixels; the networks need a multiple of 4")
    return tests


def nearest_classes(images: Tensor) -> np.ndarray:
    """Returns the class whose label colour is nearest to each pixel: [N, 3, H, W] in [-1, 1] -> uint8 [N, H, W]."""
    palette = torch.from_numpy(PALETTE).float() / 127.5 - 1.0  # [classes, 3]
    pixels = images.permute(0, 2, 3, 1).flatten(0, 2)  # [N * H * W, 3]
    shape = (images.shape[0], *images.shape[2:])
    return torch.cdist(pixels, palette).argmin(dim=1).to(torch.uint8).reshape(shape).numpy()


def segmentation_scores(read: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Compares class maps of equal shape over all their pixels.

    Returns:
        ``pixel_accuracy``; ``class_accuracy``, the mean over the classes present in `truth`; ``class_iou``, the mean
        over them of intersection over union.
    """
    n = len(CLASSES)
    pairs = truth.astype(np.int64).ravel() * n + read.astype(np.int64).ravel()
    confusion = np.bincount(pairs, minlength=n * n).reshape(n, n)  # [truth, read]
    correct, true, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    present = true > 0
    return {
        "pixel_accuracy": float(correct.sum() / confusion.sum()),
        "class_accuracy": float((correct[present] / true[present]).mean()),
        "class_iou": float((correct[present] / (true + predicted - correct)[present]).mean()),
    }


def _score_labels(labels: Tensor, tests: SceneTests) -> dict[str, float]:
    return {**segmentation_scores(nearest_classes(labels), tests.truth), "l1": _l1(labels, tests.labels)}


def _score_photos(photos: Tensor, tests: SceneTests, reader: Reader) -> dict[str, float]:
    read = torch.cat([reader.read(part) for part in photos.split(16)]).numpy()
    return {**segmentation_scores(read, _sampled(tests.truth, read.shape[-1])), "l1": _l1(photos, tests.photos)}


def _sampled(truth: np.ndarray, side: int) -> np.ndarray:
    """Class maps [N, H, H] at the reader's resolution: the class at the centre of each of its pixels."""
    centres = ((np.arange(side) + 0.5) * truth.shape[-1] / side).astype(int)
    return truth[:, centres[:, None], centres]


def _l1(images: Tensor, target: Tensor) -> float:
    """Mean absolute difference in [0, 1] units."""
    return float((images - target).abs().mean() / 2.0)


def _truth_of(root: Path, labels: Path) -> Path:
    path = root / TRUTH_FOLDER / f"{labels.stem}.png"
    if not path.is_file():
        raise MissingFileError(f"{path}: the class map of a test scene is missing; render the data set again")
    return path
