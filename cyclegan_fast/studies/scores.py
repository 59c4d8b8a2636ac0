"""The scores of a finished run against the hidden truth, and some of its translations for the page."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.checkpoint import latest_checkpoint
from cyclegan_fast.data.scenes import CLASSES
from cyclegan_fast.documents import DocumentError, Number, check, read_json
from cyclegan_fast.engine.generator import load_both
from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluation import SceneTests, load_scene_tests, train_reader
from cyclegan_fast.evaluation.color import value_distance, value_distribution
from cyclegan_fast.evaluation.scenes import score_translations, segmentation_scores, translate_all
from cyclegan_fast.files import write_atomically
from cyclegan_fast.monitoring.grids import encode, to_image
from cyclegan_fast.studies.folder import Run, StudyFolder
from cyclegan_fast.studies.variants import DIRECTION_OF, TASKS, Task

SHOWN = 6  # test scenes on the page

_scene_tests = functools.cache(load_scene_tests)
_reader = functools.cache(train_reader)  # one for all runs: their scores differ by the runs alone


def score_run(folder: StudyFolder, run: Run) -> None:
    """Scores the newest checkpoint and writes the run's scores, after the images that the page shows."""
    checkpoint = latest_checkpoint(run.folder)
    assert checkpoint is not None, run.folder
    generators = load_both(checkpoint)
    tests = _scene_tests(folder.data)
    reader = _reader(tests.size, tests.seed)
    translated = {
        task: translate_all(generators[DIRECTION_OF[task]].network, sides(tests, task)[0]) for task in run.tasks
    }
    found = score_translations(translated.get("photo_to_labels"), translated.get("labels_to_photo"), tests, reader)
    for task, images in translated.items():
        inputs, targets = sides(tests, task)
        found[task] |= color_scores(images, inputs, targets) | {"variety": variety(images, targets)}
        write_strip(run.folder / f"{task}.png", images[:SHOWN])
    truth: dict[Task, dict[str, float]] = {"labels_to_photo": found.pop("ceiling"), "photo_to_labels": {}}
    for task in TASKS:
        inputs, targets = sides(tests, task)
        found["untranslated"][task] |= color_scores(inputs, inputs, targets) | {"variety": variety(inputs, targets)}
        truth[task] |= color_scores(targets, inputs, targets) | {"variety": 1.0}
    found["truth"] = truth
    found["one_map"] = one_map_scores(tests.truth)
    text = json.dumps({"checkpoint": checkpoint.name, **found}, indent=1, allow_nan=False)
    write_atomically(run.scores, f"{text}\n".encode())


def sides(tests: SceneTests, task: Task) -> tuple[Tensor, Tensor]:
    """Returns what a task translates, and the truth of that; both float [N, 3, H, W] in [-1, 1]."""
    return (tests.labels, tests.photos) if task == "labels_to_photo" else (tests.photos, tests.labels)


def one_map_scores(truth: np.ndarray) -> dict[str, float]:
    """Scores the best answer that is the same for all scenes: at each pixel the class that it most often has.

    A generator that has collapsed scores this much at most.

    Args:
        truth: Class maps, uint8 [N, H, W].
    """
    counts = np.stack([(truth == number).sum(axis=0) for number in range(len(CLASSES))])  # [classes, H, W]
    answer = counts.argmax(axis=0).astype(np.uint8)
    return segmentation_scores(np.broadcast_to(answer, truth.shape), truth)


def variety(translated: Tensor, targets: Tensor) -> float:
    """Returns how much the translations of different scenes differ, relative to what they should be.

    It is the ratio of the standard deviations over the images, each the mean over pixels and channels: 0 where all
    inputs become one image, 1 as for the truth, more where there is noise.

    Args:
        translated: The translations, float [N, 3, H, W] in [-1, 1].
        targets: The truth.
    """
    return float(translated.std(dim=0).mean() / targets.std(dim=0).mean())


def color_scores(translated: Tensor, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Returns how far the colours of translations are from the target's images, and each from its own input.

    Args:
        translated: The translations, float [N, 3, H, W] in [-1, 1].
        inputs: What was translated.
        targets: The test images of the target domain.
    """
    one = [value_distribution([image]) for image in _stored(translated)]
    other = [value_distribution([image]) for image in _stored(inputs)]
    kept = [value_distance(a, b) for a, b in zip(one, other, strict=True)]
    distance = value_distance(value_distribution(_stored(translated)), value_distribution(_stored(targets)))
    return {"color": distance, "color_input": sum(kept) / len(kept)}


def read_scores(run: Run) -> dict[str, Any]:
    """Reads the scores of a run that is done.

    Raises:
        UserError: They are damaged.
    """
    numbers = {str: Number(whole=False)}
    both = dict.fromkeys(TASKS, numbers)
    shape: dict[str, Any] = dict.fromkeys(run.tasks, numbers)
    shape |= {"untranslated": both, "truth": both, "one_map": numbers}
    try:
        found = read_json(run.scores)
        check(found, shape)
    except (OSError, DocumentError) as error:
        raise UserError(f"{run.scores} is damaged ({error}); delete it, and the run is scored again") from error
    return dict(found)


def write_strip(path: Path, images: Tensor) -> None:
    """Writes images [N, 3, H, W] in [-1, 1] side by side as a PNG."""
    write_atomically(path, encode(to_image(torch.cat(list(images), dim=2)), "PNG"))


def read_strip(path: Path, count: int) -> list[Image.Image]:
    """Returns the images that lie side by side in a file of `write_strip`."""
    with Image.open(path) as strip:
        image = strip.convert("RGB")
    side = image.width // count
    return [image.crop((i * side, 0, (i + 1) * side, image.height)) for i in range(count)]


def shown_scenes(folder: StudyFolder, task: Task) -> tuple[Tensor, Tensor]:
    """Returns inputs and truth of the scenes on the page, float [SHOWN, 3, H, W] in [-1, 1]."""
    tests = _scene_tests(folder.data)
    inputs, truth = sides(tests, task)
    return inputs[:SHOWN], truth[:SHOWN]


def _stored(images: Tensor) -> list[Tensor]:
    """The images as a file of 8 bits stores them, in [0, 1]."""
    return list(ops.to_uint8(images.contiguous()).float() / 255)
