"""Scores of generators on the test images of a run, by the protocol of its training."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclegan_fast.checkpoint import Settings, kept_checkpoints, load_generators, read_settings
from cyclegan_fast.config import DataConfig, TrainConfig
from cyclegan_fast.data.held_out import name_of_tests
from cyclegan_fast.data.loaders.samples import Domain
from cyclegan_fast.data.scored_images import describe_images, read_test_images, scored_data
from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluation.faithfulness import with_noise
from cyclegan_fast.evaluation.features import FeatureNetwork
from cyclegan_fast.evaluation.scorer import SWAPPED, Scorer, Scores, Translated, with_features
from cyclegan_fast.images.tensors import as_tensor, to_model_range
from cyclegan_fast.metrics import DEFAULT_SCORE, DIRECTIONS, OPPOSITE, Direction, best_record, refuse_unscored
from cyclegan_fast.models import directed_score, model_of
from cyclegan_fast.monitoring.progress import ProgressBar
from cyclegan_fast.nn import image_requirements

log = logging.getLogger(__name__)

Translate = Callable[[Tensor], Tensor]  # [1, C, H, W] in [-1, 1] -> [1, C', H, W]
Translators = Mapping[Direction, Translate]


def score_run(
    run: Path,
    device: torch.device,
    *,
    data: Path | None = None,
    count: int | None = None,
    score: str = DEFAULT_SCORE,
    features: FeatureNetwork | None = None,
    paired: bool = False,
    engines: Callable[[bool], Sequence[tuple[str, Translators]]] = lambda exchanged: (),
) -> dict[str, Any]:
    """Scores the kept checkpoints of a run, and engines, on test images.

    Args:
        run: The run's folder, or one checkpoint.
        device: Where generators run and scores are computed.
        data: The folder with testA and testB; by default the run's own test images.
        count: How many images of each domain; by default the run's --eval-images.
        score: What tells the best checkpoint.
        features: A network for FID, KID, density and coverage; None leaves those out.
        paired: Compare translations with their partners also where the run does not.
        engines: Returns further translators by name; called with whether the run exchanged the folders' A and B.

    Returns:
        ``{"protocol", "score", "best", "scored": [{"name", "step", "values", "spreads"}, ...], "untranslated":
        {"values", "spreads"}, "halves": ..., "run", "data", "files": {"A": [...], "B": [...]}}``; ``best`` is a name or
        None, engines have no step, ``data`` is None of --test-A and --test-B, and the files, as the networks name the
        domains, are in the order in which they were scored.

    Raises:
        UserError: There is no checkpoint, or no test images of both domains; or nothing that `score` needs.
    """
    checkpoints = kept_checkpoints(run)
    settings = read_settings(checkpoints[-1])
    score = directed_score(model_of(settings.config), score)
    where = _test_data(settings.config, data, paired)
    refuse_unscored(score, pairs=where.paired, features=features is not None)
    scorer = RunScorer(settings, device, where, count=count, features=features)
    others = engines(settings.config.data.direction == "BtoA")
    rows: list[dict[str, Any]] = []
    with ProgressBar("scored", "checkpoints and engines") as progress:
        for path in checkpoints:
            networks, stored = load_generators(path, device)
            generators = model_of(stored.config).generators.items()
            translators: Translators = {direction: networks[name] for name, direction in generators}
            scores = scorer.score(translators)
            rows.append({"name": path.name, "step": stored.progress.get("step"), **asdict(scores)})
            progress(len(rows), len(checkpoints) + len(others))
        if scorer.seem_swapped(translators, scores):
            log.warning("%s: %s", name_of_tests(where), SWAPPED)
        for name, translators in others:
            rows.append({"name": name, **asdict(scorer.score(translators))})
            progress(len(rows), len(checkpoints) + len(others))
    best = best_record([{"name": row["name"], "scores": row["values"]} for row in rows if "step" in row], score)
    return {
        "protocol": scorer.protocol,
        "score": score,
        "best": None if best is None else best["name"],
        "scored": rows,
        "untranslated": asdict(scorer.scorer.untranslated()),
        "halves": asdict(scorer.scorer.halves()),
        "run": str(run.absolute()),
        "data": None if where.data is None else str(where.data.absolute()),
        "files": scorer.files,
    }


def _test_data(config: TrainConfig, data: Path | None, paired: bool) -> DataConfig:
    """Where the test images are: those of the run, or the folder `data`; as pairs if the run or the caller wants it.

    Raises:
        UserError: Neither the run nor the caller names any.
    """
    where = scored_data(config)
    if data is not None:
        where = dataclasses.replace(where, data=data, test_A=None, test_B=None)
    if not name_of_tests(where):
        raise UserError("the run has no --data: name a folder with testA and testB by --data")
    return dataclasses.replace(where, paired=where.paired or paired)


class RunScorer:
    """Scores generators on the test images of a run, as its training does.

    Args:
        settings: Those of one of its checkpoints: the geometry and the pixel formats of the images.
        device: Where the scores are computed.
        where: Where the test images are, and whether they are pairs.
        count: How many images of each domain; by default the run's --eval-images.
        features: A network for FID, KID, density and coverage; None leaves those out.

    Raises:
        UserError: There are no test images of both domains, or some have no partner where they are pairs.
    """

    def __init__(
        self,
        settings: Settings,
        device: torch.device,
        where: DataConfig,
        *,
        count: int | None = None,
        features: FeatureNetwork | None = None,
    ) -> None:
        config = settings.config
        domains = [Domain([], np.empty((0, 2), np.int32), settings.pixel_formats[name]) for name in "AB"]
        _, min_size = image_requirements(config.model)
        images = read_test_images(where, domains, count=count or config.run.eval_images, min_size=min_size)
        if not images[0]:
            pairs = ", or of pairs side by side with train and test" * where.paired
            raise UserError(
                f"{name_of_tests(where)}: no test images of A and B; --data takes a folder with testA and testB{pairs}"
            )
        self.device = device
        self.protocol = with_features(describe_images(images, where), features, *map(len, images))
        self.files = {
            name: [_stored_name(image.source, where.data) for image in side]
            for name, side in zip("AB", images, strict=True)
        }
        self.images = {
            direction: [image.pixels for image in side] for direction, side in zip(DIRECTIONS, images, strict=True)
        }
        arrays = self.images["AtoB"], self.images["BtoA"]
        self.scorer = Scorer(arrays, device, paired=where.paired, features=features)

    def score(self, translators: Translators) -> Scores:
        """Scores translators of one or both directions, by what they translate."""
        with torch.inference_mode():
            return self.scorer.score({direction: self._translated(translators, direction) for direction in translators})

    def seem_swapped(self, translators: Translators, scores: Scores) -> bool:
        """Returns whether A and B of the test images seem to be swapped, by these translators and their scores."""

        def translated(direction: Direction) -> Callable[[], Iterator[Tensor]]:
            return lambda: (translators[OPPOSITE[direction]](image)[0] for image in self._inputs(direction))

        with torch.inference_mode():
            return self.scorer.seem_swapped(scores, {OPPOSITE[d]: translated(OPPOSITE[d]) for d in translators})

    def _inputs(self, direction: Direction) -> Iterator[Tensor]:
        """The test images [1, C, H, W] in [-1, 1] that a direction takes."""
        return (to_model_range(as_tensor(pixels)[None].to(self.device)) for pixels in self.images[direction])

    def _translated(self, translators: Translators, direction: Direction) -> Callable[[], Iterator[Translated]]:
        inverse = translators.get(OPPOSITE[direction])

        def translated() -> Iterator[Translated]:
            for source in self._inputs(direction):
                image = translators[direction](source)
                if inverse is None:
                    yield Translated(image[0])
                else:
                    yield Translated(image[0], inverse(image)[0], inverse(with_noise(image))[0])

        return translated


def _stored_name(source: str, data: Path | None) -> str:
    """A test image below the folder `data`; its whole path where it is anywhere."""
    return str(Path(source).absolute()) if data is None else os.path.relpath(source, data)
