"""Whether the faithfulness of translations finds what a generator invents, on scenes whose truth is known.

    python -m benchmarks.hallucination --out runs/hallucination           the cases of docs/results/hallucination.md
    python -m benchmarks.hallucination --out runs/mine --cases tree:0.5:7 house:0:7                           others
    python -m benchmarks.hallucination --out runs/hallucination --page              and writes them into the page
    python -m benchmarks.hallucination --out runs/larger --cases tree:0:0 --steps 1500 --blocks 3 --width 16 --lr 4e-4

A case is an object, a share and a seed. Two small CycleGANs learn to translate photos (A) to label maps (B). The photos
of the sound one hold the object as often as the label maps do. Of the photos of the other one only a share may hold it,
but all of its label maps: its discriminator asks for trees, and it paints them where there are none. Both translate the
same test photos, from which the object is left out (and others, with it), and the class map of each tells which pixels
they invented.

The results are in faithfulness.json in --out, with the arguments, the date and the commit. The last line says how well
the maps and the flags find what was invented, and the command exits with 1 where the maps do not.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.hallucination_page import store, table, verdict
from benchmarks.results import stamped, write_json
from cyclegan_fast.checkpoint import load_generators
from cyclegan_fast.config import DataConfig, ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig
from cyclegan_fast.data.scenes.layout import CLASSES, Scene, class_map, draw_scene
from cyclegan_fast.data.scenes.render import render_labels, render_photo
from cyclegan_fast.evaluation.faithfulness import measure
from cyclegan_fast.evaluation.outliers import LIMIT, RULES, Distribution
from cyclegan_fast.evaluation.scenes import nearest_classes
from cyclegan_fast.images import load_images

CASES = ("tree:0:0", "house:0:0", "tree:0.25:0", "tree:0.1:1", "lake:0:1", "house:0.1:1", "tree:0:2", "house:0.25:2")
OBJECTS = {"tree": ("trunk", "crown"), "house": ("wall", "roof", "window"), "lake": ("lake",)}
STEPS_PER_EPOCH = 100
SCORES = (*RULES, "retranslated")  # those that flag, and one more


class Case(NamedTuple):
    """What a generator is made to invent."""

    kind: str
    """The object that its photos lack."""
    share: float
    """Of its photos that hold it nevertheless; the label maps all may."""
    seed: int
    """Of the scenes, and of training."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads "tree:0.25:1"."""
        kind, share, seed = text.split(":")
        if kind not in OBJECTS or not 0 <= float(share) < 1 or int(seed) < 0:
            raise ValueError(text)
        return cls(kind, float(share), int(seed))

    def __str__(self) -> str:
        return f"{self.kind}:{self.share:g}:{self.seed}"

    @property
    def runs(self) -> dict[str, str]:
        """The names of the two runs; the sound one of a seed belongs to all objects."""
        return {"sound": f"sound-1-{self.seed}", "hallucinating": f"{self.kind}-{self.share:g}-{self.seed}"}


class Sizes(NamedTuple):
    """What all runs of a folder have in common."""

    size: int
    """Side of the images in pixels."""
    train: int
    """Training images of each domain."""
    test: int
    """Images that a run holds out, and test images."""
    steps: int
    """Of training."""
    blocks: int = 2
    """Of the generators, which are ResNets."""
    width: int = 8
    """Channels of their first layer; the discriminators' has twice as many."""
    lr: float = 1e-3
    """The learning rate."""


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


def render(out: Path, sizes: Sizes, kind: str, share: float, seed: int) -> None:
    """Renders the data of a run: trainA and testA (photos), and trainB (label maps of other scenes).

    Args:
        out: The folder to write; nothing is done if it is there.
        sizes: How many, and how large.
        kind: The objects that photos lack.
        share: The share of the photos that hold them nevertheless; the label maps all do.
        seed: Of the scenes, and of the choice.
    """
    if out.exists():
        return
    partial = out.with_name(f"{out.name}.partial")
    holds = np.random.default_rng(seed).random(sizes.test + 2 * sizes.train) < share
    first, second, end = sizes.test, sizes.test + sizes.train, sizes.test + 2 * sizes.train
    for folder, numbers in (("testA", range(first)), ("trainA", range(first, second)), ("trainB", range(second, end))):
        (partial / folder).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            scene = draw_scene(seed, number)
            if folder != "trainB" and not holds[number]:
                scene = without(scene, kind)
            pixels = render_labels(scene, sizes.size) if folder == "trainB" else render_photo(scene, sizes.size)
            Image.fromarray(pixels).save(partial / folder / f"{number:05d}.png")
    partial.rename(out)


def photos_and_truth(case: Case, sizes: Sizes, *, holds: bool, others: bool = False) -> tuple[Tensor, np.ndarray]:
    """Renders photos of scenes that no run has seen, [N, 3, H, W], and their class maps, [N, H, W].

    Args:
        case: The object, and the seed.
        sizes: How many, and how large.
        holds: Whether they hold the object, as often as any scene does; without it none does.
        others: Of further scenes, to compare with.
    """
    first = (1 + others) * sizes.test + 2 * sizes.train
    scenes = [draw_scene(case.seed, number) for number in range(first, first + sizes.test)]
    scenes = scenes if holds else [without(scene, case.kind) for scene in scenes]
    photos = np.stack([render_photo(scene, sizes.size) for scene in scenes])
    truth = np.stack([class_map(scene, sizes.size) for scene in scenes])
    return torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 127.5 - 1, truth


def settings(data: Path, out: Path, sizes: Sizes, seed: int) -> TrainConfig:
    """Returns the settings of a small CycleGAN."""
    epochs = max(2, sizes.steps // STEPS_PER_EPOCH)
    return TrainConfig(
        model=ModelConfig(
            generator=f"resnet_{sizes.blocks}blocks",
            ngf=sizes.width,
            ndf=2 * sizes.width,
            discriminator="n_layers",
            n_layers=2,
        ),
        objective=ObjectiveConfig(lambda_identity=0.0),
        optim=OptimConfig(lr=sizes.lr, n_epochs=epochs - epochs // 2, n_epochs_decay=epochs // 2),
        data=DataConfig(data=data, load_size=sizes.size, crop_size=sizes.size, epoch_size=STEPS_PER_EPOCH),
        run=RunConfig(
            out=out,
            device="cpu",
            seed=seed,
            sample_every=0,
            eval_every=0,
            max_steps=sizes.steps,
            resume="auto",
        ),
    )


def train(data: Path, out: Path, sizes: Sizes, seed: int) -> None:
    """Trains a CycleGAN, or continues its training."""
    from cyclegan_fast.training.trainer import Trainer

    if status := Trainer(settings(data, out, sizes, seed)).run():
        sys.exit(status)


class Scored(NamedTuple):
    """What is measured of translations, without any truth."""

    scores: dict[str, np.ndarray]
    """By the names of `SCORES`, [N] each."""
    maps: dict[str, Tensor]
    """Float32 [N, 1, H, W] each."""


class Judged(NamedTuple):
    """What a generator invented on test images, by their truth, and what was measured without it."""

    shares: np.ndarray
    """[N], of the pixels of an image that show the object where the truth has none."""
    invented: np.ndarray
    """bool [N, H, W], these pixels."""
    found: Scored


def score(networks: dict[str, nn.Module], photos: Tensor, labels: Tensor) -> Scored:
    """Measures the translations of photos, as `translate` does."""
    found = measure(photos, labels, networks["G_A"], networks["G_B"])
    maps = {"error after noise": found.noise_error, "retranslated": found.retranslation_error}
    return Scored({name: getattr(found, name).numpy() for name in SCORES}, maps)


@torch.inference_mode()
def judge(run: Path, photos: Tensor, truth: np.ndarray, kind: str) -> Judged:
    """Translates photos [N, 3, H, W] and compares with their class maps [N, H, W]."""
    networks, _ = load_generators(run)
    labels, class_id = networks["G_A"](photos), CLASSES.index(kind)
    invented = (nearest_classes(labels) == class_id) & (truth != class_id)
    return Judged(invented.mean(axis=(1, 2)), invented, score(networks, photos, labels))


@torch.inference_mode()
def distribution(run: Path, photos: Tensor) -> Distribution:
    """Returns the distribution of the scores of photos [N, 3, H, W], as `translate` compares with it."""
    networks, _ = load_generators(run)
    return Distribution.of(_rows(score(networks, photos, networks["G_A"](photos))))


def held_out(out: Path, run: str) -> Distribution:
    """Returns that of the photos that a run holds out itself."""
    return distribution(out / "runs" / run, load_images(sorted((out / "data" / run / "testA").iterdir())))


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


def compare(judged: dict[str, Judged], sound: Distribution, own: dict[str, Distribution]) -> dict[str, Any]:
    """Compares the sound generator with the one that invents, on the same photos.

    An image counts as invented in if more of its pixels are than in 95 % of the sound one's images.

    Args:
        judged: ``{"sound": ..., "hallucinating": ...}``.
        sound: The distribution of the scores that the sound one gets of further photos of that kind.
        own: By the names of `judged`, that of the photos that a run holds out itself.
    """
    limit = float(np.quantile(judged["sound"].shares, 0.95))
    positive = np.concatenate([one.shares for one in judged.values()]) > limit
    columns = [_columns(one.found, sound) for one in judged.values()]
    across = {name: np.concatenate([of_one[name] for of_one in columns]) for name in columns[0]}
    return {
        "limit_percent": 100 * limit,
        "images_with_inventions": int(positive.sum()),
        "image_auc": _areas(across, positive),
        **{name: summarise(one, {"sound": sound, "own": own[name]}, limit) for name, one in judged.items()},
    }


def summarise(judged: Judged, references: dict[str, Distribution], limit: float) -> dict[str, Any]:
    """Returns the flags of one generator by each reference, and areas under the ROC curve among its own images."""
    found, rows, positive = judged.found, _rows(judged.found), judged.shares > limit
    flags = {name: np.array([bool(one.reasons(row)) for row in rows]) for name, one in references.items()}
    more = judged.shares > np.median(judged.shares)  # the half of the images with more inventions
    return {
        "invented_percent": 100 * float(judged.shares.mean()),
        "images_with_inventions": int(positive.sum()),
        "flagged_percent": {name: 100 * float(flagged.mean()) for name, flagged in flags.items()},
        "flagged_by_score_percent": {
            name: 100 * float(np.mean([references["sound"].deviations(row)[name] > LIMIT for row in rows]))
            for name in RULES
        },
        "medians": {name: float(np.median(values)) for name, values in found.scores.items()},
        "image_auc": _areas(_columns(found, references["sound"]), more),
        "pixel_auc": _areas(_pixel_scores(found), judged.invented),
    }


def _pixel_scores(found: Scored) -> dict[str, np.ndarray]:
    """What tells pixels, [N, H, W] each: the maps, averaged, and what places alone tell."""
    averaged = {f"{name}, 5x5": blurred(maps) for name, maps in found.maps.items()}
    others = {f"{name}, of another image": np.roll(maps, 1, axis=0) for name, maps in averaged.items()}
    return {name: maps[:, 0].numpy() for name, maps in found.maps.items()} | averaged | others


def _areas(scores: Mapping[str, np.ndarray], positive: np.ndarray) -> dict[str, float | None]:
    """The area of each score; None where there are no positives, or nothing else, as JSON has no NaN."""
    found = {name: area_under_roc(values.ravel(), positive.ravel()) for name, values in scores.items()}
    return {name: None if math.isnan(area) else area for name, area in found.items()}


def _columns(found: Scored, reference: Distribution) -> dict[str, np.ndarray]:
    """What tells images, of all of them: each score, higher being worse, and the worst deviation."""
    signs = {name: 1 if name not in RULES or RULES[name].higher_is_worse else -1 for name in SCORES}
    worst = np.array([max(reference.deviations(row).values()) for row in _rows(found)])
    return {name: signs[name] * values for name, values in found.scores.items()} | {"worst deviation": worst}


def _rows(found: Scored) -> list[dict[str, float]]:
    """The scores of each image."""
    return [dict(zip(found.scores, map(float, row), strict=True)) for row in zip(*found.scores.values(), strict=True)]


def run_case(out: Path, case: Case, sizes: Sizes) -> dict[str, Any]:
    """Trains both generators of a case, unless that was done before, and returns what was found."""
    shares = {"sound": 1.0, "hallucinating": case.share}
    for name, run in case.runs.items():
        render(out / "data" / run, sizes, case.kind, shares[name], case.seed)
        train(out / "data" / run, out / "runs" / run, sizes, case.seed)
    own = {name: held_out(out, run) for name, run in case.runs.items()}
    found: dict[str, Any] = {"case": str(case), **case._asdict()}
    for photos, holds in (("without", False), ("with", True)):
        tests = photos_and_truth(case, sizes, holds=holds)
        judged = {name: judge(out / "runs" / run, *tests, case.kind) for name, run in case.runs.items()}
        further, _ = photos_and_truth(case, sizes, holds=holds, others=True)
        sound = distribution(out / "runs" / case.runs["sound"], further)
        found[photos] = compare(judged, sound, own)
    return found


def control(out: Path, seeds: Sequence[int], sizes: Sizes) -> list[dict[str, Any]]:
    """Compares sound generators of two seeds, on the photos of the first: nothing should tell them apart."""
    found = []
    for first, second in itertools.permutations(seeds, 2):
        tests = photos_and_truth(Case("tree", 0.0, first), sizes, holds=True)
        runs = [f"sound-1-{seed}" for seed in (first, second)]
        reference = held_out(out, runs[0])
        one, other = (judge(out / "runs" / run, *tests, "tree").found for run in runs)
        columns, others = _columns(one, reference), _columns(other, reference)
        is_other = np.arange(2 * sizes.test) >= sizes.test
        flagged = [100 * np.mean([bool(reference.reasons(row)) for row in _rows(scored)]) for scored in (one, other)]
        areas = _areas({name: np.concatenate([columns[name], others[name]]) for name in columns}, is_other)
        found.append({"seeds": [first, second], "flagged_percent": flagged, "image_auc": areas})
    return found


def check_settings(out: Path, sizes: Sizes) -> None:
    """Stores the settings of a new folder, and refuses one whose runs have others.

    Raises:
        SystemExit: It has, or nobody knows which.
    """
    path = out / "settings.json"
    stored = json.loads(path.read_text()) if path.exists() else None
    if stored is None and (out / "runs").exists():
        raise SystemExit(f"{out} holds runs, but no settings.json: choose another folder")
    if stored not in (None, sizes._asdict()):
        raise SystemExit(f"{out} holds runs of other settings ({stored}): choose another folder, or give those")
    write_json(path, sizes._asdict())


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; what is rendered and trained already is not done again.

    Returns:
        The exit status: 1 where the maps do not find what was invented.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and their data")
    parser.add_argument(
        "--cases", type=Case.parse, nargs="+", default=[*map(Case.parse, CASES)], metavar="OBJECT:SHARE:SEED",
        help=f"object ({', '.join(OBJECTS)}), share of the photos that hold it, of the one that invents, and seed",
    )  # fmt: skip
    parser.add_argument("--size", type=int, default=32, help="side of the images, in pixels")
    parser.add_argument("--train", type=int, default=600, help="training images of each domain")
    parser.add_argument("--test", type=int, default=100, help="images held out by each run, and test images")
    parser.add_argument("--steps", type=int, default=500, help="of training, for each run")
    parser.add_argument("--blocks", type=int, default=2, help="of the generators")
    parser.add_argument("--width", type=int, default=8, help="channels of their first layer")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--page", action="store_true", help="store the numbers in docs/results, and write the tables")
    args = parser.parse_args(words)
    sizes = Sizes(**{name: getattr(args, name) for name in Sizes._fields})
    check_settings(args.out, sizes)
    results = [run_case(args.out, case, sizes) for case in args.cases]
    arguments = {**sizes._asdict(), "cases": [*map(str, args.cases)]}
    controls = control(args.out, sorted({case.seed for case in args.cases}), sizes)
    measured = stamped(results) | {"arguments": arguments, "controls": controls}
    write_json(args.out / "faithfulness.json", measured)
    if args.page:
        store(measured)
    line, maps_find = verdict(measured)
    print("\n".join([*table(measured), "", line]))
    return 0 if maps_find else 1


if __name__ == "__main__":
    sys.exit(main())
