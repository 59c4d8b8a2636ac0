"""`translate --faithfulness`: scores and maps of each translated image, and a page with the worst ones."""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast.checkpoint import latest_checkpoint, read_settings
from cyclegan_fast.data.held_out import list_test_files, name_of_tests
from cyclegan_fast.data.rng import draw_shown
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.inference import translate_values
from cyclegan_fast.engine.tiling.tiling import Tiling
from cyclegan_fast.engine.translation.tasks import Inputs, Task, maps_of
from cyclegan_fast.errors import UserError, reading_error
from cyclegan_fast.evaluation.faithfulness import MAPS, SCORES, Faithfulness, Translate, measure
from cyclegan_fast.evaluation.outliers import MIN_IMAGES, Distribution
from cyclegan_fast.files import write_atomically
from cyclegan_fast.images import BadImageError
from cyclegan_fast.images.find import list_images
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.images.model_io import read_input
from cyclegan_fast.monitoring.faithfulness_page import WorstImage, write_faithfulness_page
from cyclegan_fast.monitoring.grids import encode
from cyclegan_fast.monitoring.heat_map import heat_map
from cyclegan_fast.monitoring.progress import Progress

log = logging.getLogger(__name__)

WORST = 10  # images on the page
HIDES = 2.0  # a median of the hidden score from which on the generators are suspect
RESULTS = "results"  # for --faithfulness-reference: the translated images themselves
MAX_HELD_OUT = 50  # images; each costs six passes, and the spread of 50 is known to a sixth


class Reference(NamedTuple):
    """The images that results are compared with."""

    files: Sequence[ImageFile | Path]
    name: str
    is_named: bool
    """By the user, so that too few are an error."""
    scores: Sequence[Mapping[str, float]] = ()
    """Of images that were measured before, in the place of files."""


def find_reference(
    named: str | Path | None, engine: Path, direction: str | None, inputs: Sequence[Path]
) -> Reference | None:
    """Finds the images that results are compared with; None for the results themselves.

    Without a name these are test images of the data that the engine was trained on, a random sample that is the same
    each time, where the engine is a run or a checkpoint and they are still there.

    Args:
        named: A folder of images, the faithfulness.csv of other results, or "results".
        engine: What translates.
        direction: What it translates, in the folders' names, as `Engine.direction`.
        inputs: The images to translate, which are no measure of themselves.

    Raises:
        UserError: There is no such folder or file, or nothing in it.
    """
    named = None if named is None else str(named)
    if named == RESULTS:
        return None
    if named is not None and named.endswith(".csv"):
        return Reference((), named, is_named=True, scores=_read_scores(Path(named)))
    if named is not None:
        return Reference(list_images(Path(named)), named, is_named=True)
    if not engine.is_dir() or latest_checkpoint(engine) is None:
        return None
    data = read_settings(engine).config.data
    try:
        by_folder = list_test_files(dataclasses.replace(data, direction="AtoB"))  # testA first, however it was trained
    except UserError as error:  # of locations that are no longer there
        log.info("faithfulness: %s", error)
        by_folder = [], []
    where = name_of_tests(data)
    files, translated = by_folder[direction == "BtoA"], Inputs([*inputs])
    others = [file for file in files if Path(file.path) not in translated]
    if len(others) < MIN_IMAGES:
        log.info(
            "faithfulness: the results are compared with each other, as %d test images of %s are left to compare with; "
            "--faithfulness-reference names a folder of others",
            len(others),
            where or "the run",
        )
        return None
    chosen = [others[i] for i in sorted(draw_shown(len(others), MAX_HELD_OUT))]
    log.info(
        "faithfulness: the results are compared with %d of the %d test images of %s; --faithfulness-reference names "
        "other images, or %s",
        len(chosen),
        len(files),
        where,
        RESULTS,
    )
    return Reference(chosen, f"{where} (test images)", is_named=False)


def _read_scores(path: Path) -> list[dict[str, float]]:
    """The scores of each image of a faithfulness.csv.

    Raises:
        UserError: It cannot be read, or is another table.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [{name: float(row[name]) for name in SCORES} for row in csv.DictReader(file)]
    except OSError as error:
        raise reading_error(f"--faithfulness-reference {path}: {error.strerror or error}", error) from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"--faithfulness-reference {path} is no faithfulness.csv of this version ({error}): measure those images "
            "again"
        ) from error


class FaithfulnessCheck:
    """Measures translations as they are made.

    Args:
        engine: The generator.
        inverse: That of the other direction, by `check_inverse`.
        output: The folder of the results.
        tiling: How large images are cut.
    """

    def __init__(self, engine: Engine, inverse: Engine, output: Path, *, tiling: Tiling | None = None) -> None:
        self.engine, self.inverse, self.output, self.tiling = engine, inverse, output, tiling
        self.measured: dict[Task, dict[str, float]] = {}  # the scores of each image
        self.reference: Distribution | None = None
        self.reference_name = "the translated images themselves"

    def measure_reference(self, reference: Reference, progress: Progress = lambda done, total: None) -> None:
        """Takes the distribution that images are compared with from files, which are translated in memory.

        Raises:
            UserError: Fewer than 8 of those that the user named can be read.
        """
        files, name, is_named, measured = reference
        scores = [*measured]
        for done, file in enumerate(files):
            progress(done, len(files))
            try:
                values, output = self._translate(file)
            except BadImageError as error:
                log.warning("%s; left out of the reference", error)
                continue
            scores.append(_scores(self._measure(values, output)))
        if len(scores) >= MIN_IMAGES:
            self.reference, self.reference_name = Distribution.of(scores), f"{len(scores)} images of {name}"
        elif is_named:
            raise UserError(
                f"--faithfulness-reference {name}: {len(scores)} images; a distribution needs {MIN_IMAGES} or more"
            )
        else:
            log.warning("%d images of %s can be read; the results are compared with each other", len(scores), name)

    def add(self, task: Task, values: Tensor, output: Tensor, reconstruction: Tensor | None = None) -> None:
        """Measures a translation, and writes its maps.

        Args:
            task: Its files.
            values: The input, [C, H, W] in [-1, 1].
            output: The translation, [C', H', W'].
            reconstruction: What the inverse makes of it, [C, H, W], where that is known.

        Raises:
            UserError: The reconstruction has another shape, or a map cannot be written.
        """
        found = self._measure(values, output, reconstruction)
        maps = _maps(found)
        for name, path in maps_of(task, self.output).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, encode(maps[name], "PNG"))
        self.measured[task] = _scores(found)  # again, where a batch failed halfway

    def finish(self) -> str:
        """Writes faithfulness.csv and faithfulness.html; returns what was found, in a sentence."""
        if not self.measured:
            return "faithfulness: no image was measured"
        reference = self.reference or Distribution.of([*self.measured.values()])
        reasons = {task: reference.reasons(scores) for task, scores in self.measured.items()}
        write_atomically(self.output / "faithfulness.csv", self._csv(reasons).encode("utf-8", "surrogateescape"))
        hidden = _median(scores["hidden"] for scores in self.measured.values())
        if hidden >= HIDES:
            log.warning(
                "reconstructions get %.1f times worse by noise of 2 levels: the generators hide the input in patterns "
                "that nobody sees, or the translations have little contrast; a low cycle error then says nothing",
                hidden,
            )
        count = sum(map(bool, reasons.values()))
        if reference.count < MIN_IMAGES:
            verdict = f"none is flagged, as that takes {MIN_IMAGES} images to compare with"
        else:
            verdict = f"{count} of {len(self.measured)} images stand out from {self.reference_name}"
        page = write_faithfulness_page(
            self.output / "faithfulness.html",
            self._worst(reference, reasons),
            medians={name: _median(scores[name] for scores in self.measured.values()) for name in SCORES},
            count=len(self.measured),
            verdict=verdict,
        )
        return f"faithfulness: {verdict}; {page}"

    def _worst(self, reference: Distribution, reasons: Mapping[Task, list[str]]) -> list[WorstImage]:
        """The images that stand out most, translated once more."""

        def deviation(task: Task) -> float:
            return max(reference.deviations(self.measured[task]).values(), default=0.0)

        worst: list[WorstImage] = []
        for task in sorted(self.measured, key=deviation, reverse=True)[:WORST]:
            values, output = self._translate(task.source)
            found = self._measure(values, output)
            images = values, output, found.reconstruction[0], found.noise_reconstruction[0]
            shown: list[Tensor | Image.Image] = [*images, *_maps(found).values()]
            worst.append(WorstImage(str(task.source), shown, self.measured[task], reasons[task]))
        return worst

    def _csv(self, reasons: Mapping[Task, list[str]]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", *SCORES, "flagged", "why"])
        for task, scores in self.measured.items():
            numbers = [f"{scores[name]:.6g}" for name in SCORES]
            writer.writerow([task.source, *numbers, "yes" if reasons[task] else "no", "; ".join(reasons[task])])
        return text.getvalue()

    def _translate(self, file: ImageFile | Path) -> tuple[Tensor, Tensor]:
        values = read_input(file, self.engine.in_format, self.engine.out_format).values
        return values, translate_values(self.engine, [values], tiling=self.tiling)[0]

    def _measure(self, values: Tensor, output: Tensor, reconstruction: Tensor | None = None) -> Faithfulness:
        known = None if reconstruction is None else reconstruction[None].cpu()
        generator, inverse = self._function(self.engine), self._function(self.inverse)
        try:
            return measure(values[None].cpu(), output[None].cpu(), generator, inverse, known)
        except ValueError as error:
            raise UserError(f"no faithfulness, as the reconstruction has another shape: {error}") from error

    def _function(self, engine: Engine) -> Translate:
        """An engine as a function of a batch, which is translated as the images are."""
        return lambda images: torch.stack(translate_values(engine, [*images], tiling=self.tiling)).cpu()


def _scores(found: Faithfulness) -> dict[str, float]:
    return {name: float(getattr(found, name)[0]) for name in SCORES}


def _maps(found: Faithfulness) -> dict[str, Image.Image]:
    """By the names of `MAPS`."""
    return {name: heat_map(getattr(found, field)[0, 0]) for name, field in MAPS.items()}


def check_inverse(engine: Engine, inverse: Engine) -> None:
    """Refuses an engine that cannot translate the results of another one back.

    Raises:
        UserError: It translates in the same direction, or takes or makes images of other channels.
    """
    if engine.direction is not None and engine.direction == inverse.direction:
        raise UserError(f"--back-engine {inverse.name} translates {inverse.direction}, as --engine: give the other one")
    if (engine.in_channels, engine.out_channels) != (inverse.out_channels, inverse.in_channels):
        raise UserError(
            f"--back-engine {inverse.name} makes {inverse.out_channels} channels of {inverse.in_channels}, but "
            f"--engine makes {engine.out_channels} of {engine.in_channels}: give the engine of the other direction"
        )


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return median(finite) if finite else math.nan
