"""Scores of the test images while a run trains: when they are due, and what they are; no trace in the training."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.checkpoint.retention import Scored
from cyclegan_fast.config import TrainConfig
from cyclegan_fast.data.held_out import HeldOutImage
from cyclegan_fast.data.loaders.samples import Domain
from cyclegan_fast.data.scored_images import Images, describe_images, read_test_images, scored_data
from cyclegan_fast.errors import UserError
from cyclegan_fast.evaluation.faithfulness import with_noise
from cyclegan_fast.evaluation.features import FeatureNetwork, load_features
from cyclegan_fast.evaluation.scorer import SWAPPED, Scorer, Scores, Translated, with_features
from cyclegan_fast.logs import warn_once
from cyclegan_fast.memory import is_out_of_memory
from cyclegan_fast.metrics import DIRECTIONS, Direction, best_record, is_better
from cyclegan_fast.monitoring.evaluations import score_line
from cyclegan_fast.monitoring.events import EventLog
from cyclegan_fast.training.samples import SampleTranslator

log = logging.getLogger(__name__)

MAX_SHARE = 0.05  # of the time of a run, where --eval-every does not say when
MIN_FIRST_SECONDS = 3.0  # that the first scores are expected to take at least
PASSES_PER_STEP = 20  # forward passes of a generator that one image costs in a training step, about


class _CancelledError(Exception):
    """The run is to stop."""


class Evaluator:
    """Scores the test images by the generators as they are at the moment.

    Args:
        translator: What translates an image without a trace in the training.
        images: Test images of A and of B, of `read_scored_images`; none to score nothing.
        config: The settings of the run.
    """

    def __init__(self, translator: SampleTranslator, images: Images, config: TrainConfig) -> None:
        self.translator, self.images, self.config, self.data = translator, images, config, scored_data(config)
        run = config.run
        self.features: FeatureNetwork | None = None
        if run.features is not None and images[0]:
            self.features = load_features(run.features, translator.step.device, run.features_size)
            for side in images:
                self.features.check_channels(side[0].pixels.shape[2])
        self.protocol = with_features(describe_images(images, self.data), self.features, *map(len, images))
        self.newest: dict[str, Any] | None = None  # the record of the newest scores: step, scores, spreads, protocol
        self.best: Mapping[str, Any] | None = None  # by --score, of this protocol
        self.scorer: Scorer | None = None
        self.began, self.first = time.monotonic(), 0  # when training began, and after which step
        self.total_steps, self.is_scored = 0, False  # of the whole run; whether it had scores before
        self.cancelled: Callable[[], bool] = lambda: False
        self.spent = 0.0  # seconds, of all scores since then
        self.last: float | None = None  # seconds, of the last scores
        self.swap_checked = False

    def begin(
        self,
        done: int,
        total_steps: int,
        records: Sequence[dict[str, Any]],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Starts the clock, right before the first step.

        Args:
            done: Steps that are done before.
            total_steps: Steps of the whole run.
            records: Those of the run so far, of which the best scores are still the best.
            cancelled: Returns whether the run is to stop: scores that are being computed are then given up.
        """
        self.began, self.first, self.total_steps, self.cancelled = time.monotonic(), done, total_steps, cancelled
        self.is_scored = any("scores" in record for record in records)
        self.best = best_record([r for r in records if r.get("protocol") == self.protocol], self.config.run.score)

    def is_due(self, step: int, *, epoch_ended: bool, last: bool) -> bool:
        """Returns whether scores are due after `step`.

        By default that is so after each epoch and the last step, within a share of the time, of which what the last
        step needs is left for it: its weights are those that are used.

        Args:
            step: Steps done.
            epoch_ended: `step` was the last one of its epoch.
            last: `step` was the last one of the run.
        """
        every = self.config.run.eval_every
        if not self.images[0]:
            return False
        if every is not None:
            return every > 0 and (last or step % every == 0)
        elapsed = time.monotonic() - self.began
        per_step = elapsed / (step - self.first)
        expected = self.expected_seconds(per_step)
        if not (epoch_ended or last) or self.spent + expected > MAX_SHARE * elapsed:
            return False
        whole = elapsed + per_step * (self.total_steps - step)
        return last or self.spent + 2 * expected <= MAX_SHARE * whole

    def expected_seconds(self, seconds_per_step: float) -> float:
        """Returns how long the next scores take: as long as the last ones, or by the work that is to be done.

        Each image is translated, back, back again with noise, and at first by the generator of the other direction;
        features are of it and of its translation.
        """
        if self.last is not None:
            return self.last
        count = sum(map(len, self.images))
        translations = 4 * count / (PASSES_PER_STEP * self.config.optim.images_per_step) * seconds_per_step
        features = 0.0 if self.features is None else 2 * count * self.features.seconds
        return max(MIN_FIRST_SECONDS, translations + features)

    def evaluate(self, step: int, events: EventLog) -> dict[str, float]:
        """Scores the test images, and writes and logs the scores.

        Where the device's memory is too small for it, as training needs it all, a warning is logged and there are none.

        Returns:
            What a display of the run's progress shows of them.
        """
        start = time.monotonic()
        try:
            with torch.inference_mode():
                scorer, directions = self._scorer(), self.translator.step.model.directions
                scores = scorer.score({direction: self._translations(direction) for direction in directions})
                untranslated = scorer.untranslated()
        except _CancelledError:
            log.info("scores after step %d: given up, as the run is to stop", step)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            warn_once(log, "no scores: the memory is full; --eval-every 0 leaves them out")
        else:
            self.newest = events.write(
                step,
                scores=scores.values,
                spreads=scores.spreads,
                untranslated=untranslated.values,
                protocol=self.protocol,
            )
            score = self.config.run.score
            before = None if self.best is None else self.best["scores"].get(score)
            if is_better(score, self.newest["scores"].get(score), before):
                self.best = self.newest
            log.info("%s", score_line(self.newest, self.best, score))
            self._check_swap(scorer, scores)
        self.last = time.monotonic() - start
        self.spent += self.last
        return self._headline()

    def end(self) -> None:
        """Logs how to get scores, where a run has come to its end and its time allowed none."""
        if self.images[0] and self.config.run.eval_every is None and self.last is None and not self.is_scored:
            log.info(
                "no scores: this run is too short for them to take at most %g %% of its time; --eval-every N scores "
                "every N steps, and python -m cyclegan_fast.evaluate --run %s the checkpoints that are there",
                100 * MAX_SHARE,
                shlex.quote(str(self.config.run.out)),
            )

    def _check_swap(self, scorer: Scorer, scores: Scores) -> None:
        """Warns, by the first scores of a process, if A and B of the test images seem to be swapped."""
        if self.swap_checked or not self.translator.step.model.reconstructs:
            return
        self.swap_checked = True
        try:
            with torch.inference_mode():
                seem_swapped = scorer.seem_swapped(scores, {d: self._exchanged(d) for d in DIRECTIONS})
        except _CancelledError:
            return
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            log.info("whether A and B of the test images are swapped was not looked at: the memory is full")
            return
        if seem_swapped:
            log.warning("%s", SWAPPED)

    def _exchanged(self, direction: Direction) -> Callable[[], Iterator[Tensor]]:
        """Translations of the images of a direction by the generator of the other one."""
        domain = direction[0]

        def translated() -> Iterator[Tensor]:
            for image in self._images_of(domain):
                yield self.translator.translate_back(domain, self.translator.as_input(image)[0])

        return translated

    def _images_of(self, domain: str) -> Iterator[HeldOutImage]:
        """The images of a domain, until the run is to stop."""
        for image in self.images["AB".index(domain)]:
            if self.cancelled():
                raise _CancelledError
            yield image

    def _headline(self) -> dict[str, float]:
        score = self.config.run.score
        found = None if self.newest is None else self.newest["scores"].get(score)
        return {} if found is None else {score: found}

    def scored(self, step: int) -> Scored:
        """Returns the step with its scores, if it is that of the newest ones."""
        if self.newest is None or self.newest["step"] != step:
            return Scored(step)
        return Scored(step, self.newest["scores"], self.protocol)

    def _scorer(self) -> Scorer:
        if self.scorer is None:
            arrays = tuple([image.pixels for image in images] for images in self.images)
            device = self.translator.step.device
            self.scorer = Scorer((arrays[0], arrays[1]), device, paired=self.data.paired, features=self.features)
        return self.scorer

    def _translations(self, direction: str) -> Callable[[], Iterator[Translated]]:
        domain = direction[0]

        def translated() -> Iterator[Translated]:
            for image in self._images_of(domain):
                _, translation, *back = self.translator.translate(domain, image)
                if back:
                    after_noise = self.translator.translate_back(domain, with_noise(translation[None])[0])
                    yield Translated(translation, back[0], after_noise)
                else:
                    yield Translated(translation)

        return translated


def read_scored_images(config: TrainConfig, domains: Sequence[Domain], *, min_size: int) -> Images:
    """Reads the test images that a run is scored by, and logs which; none where there are none, or none are wanted.

    Where those of paired training images are no pairs, a warning is logged and there are none.

    Raises:
        UserError: They are no pairs, which --eval-paired asks for; or --test-A or --test-B name none.
    """
    every, data = config.run.eval_every, scored_data(config)
    if every == 0:
        return [], []
    try:
        images = read_test_images(data, domains, count=config.run.eval_images, min_size=min_size)
    except UserError as error:
        reason = str(error).removeprefix("--paired: ")
        is_of_pairs = reason != str(error)
        if is_of_pairs and not config.data.paired:
            raise UserError(f"--eval-paired: the test images are no pairs: {reason}") from error
        if config.data.test_A is not None and not is_of_pairs:
            raise
        log.warning("no scores of the test images: %s", error)
        return [], []
    if not images[0]:
        where = "testA and testB below --data" if data.data_A is None else "--test-A and --test-B name them"
        log.info("scores: none, as there are no test images of both domains (%s)", where)
        return images
    when = "after each epoch, within 5 % of the time" if every is None else f"every {every:,} steps"
    log.info("scores: %s; %s", describe_images(images, data), when)
    return images
