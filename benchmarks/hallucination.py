"""Whether the faithfulness of translations finds what a generator invents, on scenes whose truth is known.

    python -m benchmarks.hallucination --out runs/hallucination

trains two small CycleGANs from photos (A) to label maps (B). The photos and the label maps of the sound one hold as
many trees. The photos of the other one hold none, its label maps as many as before: its discriminator asks for trees,
and it paints them where there are none. The class map of each test scene tells which pixels it invented.

Both translate the same test photos: once without trees, and once with them. The result is faithfulness.json in --out:
areas under the ROC curve, for pixels (the maps) and for images (the scores).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cyclegan_fast.checkpoint import load_generators
from cyclegan_fast.config import DataConfig, ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.data.scenes.layout import CLASSES, Scene, class_map, draw_scene
from cyclegan_fast.data.scenes.render import render_labels, render_photo
from cyclegan_fast.evaluation.faithfulness import Faithfulness, measure
from cyclegan_fast.evaluation.outliers import RULES, Distribution
from cyclegan_fast.evaluation.scenes import nearest_classes
from cyclegan_fast.images import load_images

OBJECTS = {"tree": ("trunk", "crown"), "house": ("wall", "roof", "window"), "lake": ("lake",)}
STEPS_PER_EPOCH = 100
MANY = 0.03  # share of an image's pixels that are invented, from which on it is to be flagged


def without(scene: Scene, kind: str) -> Scene:
    """Returns a scene without its trees, houses or lake, and without the shadows of those."""
    shapes = scene.shapes
    following = [*shapes[1:], None]
    kept = [
        shape
        for shape, after in zip(shapes, following, strict=True)
        if shape.part not in OBJECTS[kind]
        and not (shape.part == "shadow" and after is not None and after.part in OBJECTS[kind])
    ]
    return dataclasses.replace(scene, shapes=tuple(kept))


def render(out: Path, size: int, train: int, test: int, kind: str, share: float, seed: int) -> None:
    """Renders trainA (photos), trainB (label maps of other scenes), testA, and truth (class maps of testA).

    Args:
        out: The folder to write, which must not exist.
        size: Side of the images in pixels.
        train: Images of each domain.
        test: Images of testA.
        kind: The objects that photos lack.
        share: The share of the photos that hold them nevertheless; the label maps all do.
        seed: Of the scenes, and of the choice.
    """
    chosen = np.random.default_rng(seed).random(test + 2 * train) < share
    for folder, numbers in (
        ("testA", range(test)),
        ("trainA", range(test, test + train)),
        ("trainB", range(test + train, test + 2 * train)),
    ):
        (out / folder).mkdir(parents=True)
        for number in numbers:
            scene = draw_scene(seed, number)
            if folder != "trainB" and not chosen[number]:
                scene = without(scene, kind)
            pixels = render_labels(scene, size) if folder == "trainB" else render_photo(scene, size)
            Image.fromarray(pixels).save(out / folder / f"{number:05d}.png")
            if folder == "testA":
                (out / "truth").mkdir(exist_ok=True)
                Image.fromarray(class_map(scene, size)).save(out / "truth" / f"{number:05d}.png")


def settings(data: Path, out: Path, size: int, steps: int, seed: int) -> TrainConfig:
    """Returns the settings of a small CycleGAN."""
    epochs = max(2, steps // STEPS_PER_EPOCH)
    return TrainConfig(
        model=ModelConfig(generator="resnet_3blocks", ngf=16, ndf=32, discriminator="n_layers", n_layers=2),
        objective=ObjectiveConfig(lambda_identity=0.0),
        optim=OptimConfig(lr=4e-4, n_epochs=epochs - epochs // 2, n_epochs_decay=epochs // 2),
        data=DataConfig(data=data, load_size=size, crop_size=size, epoch_size=STEPS_PER_EPOCH),
        run=RunConfig(
            out=out,
            device="cpu",
            seed=seed,
            sample_every=max(1, steps // 3),
            eval_every=0,
            max_steps=steps,
            resume="auto",
        ),
    )


def train(data: Path, out: Path, size: int, steps: int, seed: int) -> None:
    """Trains a CycleGAN, or continues its training."""
    from cyclegan_fast.training.trainer import Trainer

    if status := Trainer(settings(data, out, size, steps, seed)).run():
        sys.exit(status)


class Judged(NamedTuple):
    """What a generator invented on the test images, by their truth, and what was measured without it."""

    shares: np.ndarray
    """[N], of the pixels of an image that show the object where the truth has none."""
    invented: np.ndarray
    """bool [N, H, W], these pixels."""
    found: Faithfulness


@torch.inference_mode()
def judge(run: Path, data: Path, kind: str) -> Judged:
    """Translates the test photos and compares with their truth."""
    networks, _ = load_generators(run)
    files = sorted((data / "testA").iterdir())
    photos = load_images(files)
    truth = np.stack([np.asarray(Image.open(data / "truth" / file.name)) for file in files])
    labels = networks["G_A"](photos)
    invented = (nearest_classes(labels) == CLASSES.index(kind)) & (truth != CLASSES.index(kind))
    return Judged(invented.mean(axis=(1, 2)), invented, measure(photos, labels, networks["G_B"]))


def area_under_roc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Returns the probability that a positive has a higher score than a negative, ties by half; NaN without both."""
    values, counts = np.unique(scores, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equal scores, from 1
    rank_sum = ranks[np.searchsorted(values, scores[positive])].sum()
    n, m = positive.sum(), (~positive).sum()
    return float((rank_sum - n * (n + 1) / 2) / (n * m)) if n and m else math.nan


def blurred(maps: Tensor) -> np.ndarray:
    """Averages maps [N, 1, H, W] over 5x5 pixels: [N, H, W]."""
    return functional.avg_pool2d(maps, 5, 1, 2, count_include_pad=False)[:, 0].numpy()


def summarise(judged: Judged, reference: Distribution) -> dict[str, Any]:
    """Returns areas under the ROC curve and flags of one generator."""
    found = judged.found
    flagged = np.array([bool(reference.reasons(row)) for row in _rows(found)])
    many = judged.shares > np.median(judged.shares)  # the half of the images with more inventions
    return {
        "invented_percent": 100 * float(judged.shares.mean()),
        "flagged_percent": 100 * float(flagged.mean()),
        "medians": {name: float(getattr(found, name).median()) for name in found._fields[:7]},
        "pixel_auc": {
            "error after noise": area_under_roc(found.noise_error.numpy().ravel(), judged.invented.ravel()),
            "error after noise, 5x5": area_under_roc(blurred(found.noise_error).ravel(), judged.invented.ravel()),
            "error, 5x5": area_under_roc(blurred(found.error).ravel(), judged.invented.ravel()),
            "that of the image before, 5x5": area_under_roc(
                np.roll(blurred(found.noise_error), 1, axis=0).ravel(), judged.invented.ravel()
            ),
        },
        "image_auc_within": {name: area_under_roc(_badness(found, name), many) for name in RULES},
    }


def _badness(found: Faithfulness, name: str) -> np.ndarray:
    values: np.ndarray = getattr(found, name).numpy()
    return values if RULES[name].higher_is_worse else -values


def compare(judged: dict[str, Judged]) -> dict[str, Any]:
    """Compares the sound generator with the other one; flags are by every second test image of the sound one.

    Args:
        judged: ``{"sound": ..., "hallucinating": ...}``.
    """
    held_out = _rows(judged["sound"].found)[::2]
    reference = Distribution.of(held_out)
    everything = [one.found for one in judged.values()]
    positive = np.concatenate([one.shares for one in judged.values()]) > MANY
    worst = [max(reference.deviations(row).values()) for found in everything for row in _rows(found)]
    across = {name: np.concatenate([_badness(found, name) for found in everything]) for name in RULES}
    across["worst deviation"] = np.array(worst)
    return {
        "images": len(positive),
        "images_with_inventions": int(positive.sum()),
        "image_auc": {name: area_under_roc(values, positive) for name, values in across.items()},
        **{name: summarise(one, reference) for name, one in judged.items()},
    }


def _rows(found: Faithfulness) -> list[dict[str, float]]:
    """The scores of each image."""
    return [{name: float(getattr(found, name)[i]) for name in RULES} for i in range(len(found.cycle))]


def main() -> None:
    """Runs the command; what is rendered and trained already is not done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of both runs and their data")
    parser.add_argument("--object", choices=OBJECTS, default="tree", help="what is invented")
    parser.add_argument("--share", type=float, default=0.0, help="of the photos that hold it, of the one that invents")
    parser.add_argument("--size", type=int, default=32, help="side of the images, in pixels")
    parser.add_argument("--train", type=int, default=600, help="training images of each domain")
    parser.add_argument("--test", type=int, default=100, help="test images")
    parser.add_argument("--steps", type=int, default=2500, help="of training, for each of the two")
    parser.add_argument("--seed", type=int, default=0, help="of scenes and training")
    args = parser.parse_args()
    shares = {"sound": 1.0, "hallucinating": args.share}
    for name, share in shares.items():
        data = args.out / f"data_{name}"
        if not data.exists():
            render(data, args.size, args.train, args.test, args.object, share, args.seed)
        train(data, args.out / f"run_{name}", args.size, args.steps, args.seed)
    found = {}
    for data, title in (("data_hallucinating", "without"), ("data_sound", "with")):
        judged = {name: judge(args.out / f"run_{name}", args.out / data, args.object) for name in shares}
        found[f"photos {title} it"] = compare(judged)
    text = json.dumps(found, indent=1)
    (args.out / "faithfulness.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
