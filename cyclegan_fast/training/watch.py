"""The watch over a run: whether it diverges or collapses, by the losses of its records and the images of its grids.

What it finds is a warning, once for each network and kind of fault: in the log, in the events and so in the report.
docs/results_are_bad.md has a section on each. A grid is judged once it exists and a record once it is written, so a
step never waits for the watch.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.monitoring.events import EventLog, read_events
from cyclegan_fast.monitoring.samples import SampleRow
from cyclegan_fast.training.objective import GanMode

log = logging.getLogger(__name__)

FIRST_STEP = 500  # of a grid that is judged: before it, healthy generators may make anything
LOOK_EVERY = 100  # steps at least between two looks at the losses
WON_WINDOW = 1000  # steps over which a discriminator must have won
DIVERGED_WINDOW = 200  # steps all of whose records must show a loss out of bounds: more than one bad batch
# The loss of a discriminator that makes hardly an error, and that of its generator then. With lsgan 0.01 means scores
# within 0.1 of 1 and of 0; sound runs have 0.02 and more. wgangp has no such bound, as its scores have none.
WON: dict[GanMode, tuple[float, float]] = {"lsgan": (0.01, 0.7), "vanilla": (0.02, 3.0), "hinge": (0.02, 0.9)}
# The magnitude of a loss that cannot come back: 100 times that of a discriminator which guesses, 0.25, 0.69 and 1. The
# scores of wgangp have no such scale; those of sound runs stay below some hundred.
BOUNDS: dict[GanMode, float] = {"lsgan": 25.0, "vanilla": 70.0, "hinge": 100.0, "wgangp": 10_000.0}
MOST = 0.75  # of a grid's images of one direction must show a fault
FLAT = 0.02  # standard deviation of an image's values in [-1, 1], 2.5 of 255 levels: one colour to the eye ...
FLAT_SHARE = 0.1  # ... and a tenth of that of real images of its domain, which may be as dark as the night
SATURATED, NOT_SATURATED = 0.95, 0.5  # share of the values at either end: in an output, and in real images at most
INVERTED = -0.7  # correlation of the luminance of input and output; inverted photos have about -0.9
CONTRAST = 0.05  # standard deviation from which a correlation means something
ONE_MODE = 0.1  # how much of the variety among the inputs, and among real images, is left among the outputs
VARIED = 0.02  # variety from which it means something
_SIDE = 32  # pixels of the thumbnails that are compared

_SEE = "see '{}' in docs/results_are_bad.md"


class Finding(NamedTuple):
    """A fault of one network."""

    kind: str
    """constant, saturated, inverted, one mode, discriminator won, or diverging."""
    network: str
    message: str
    """What was seen, and what to do."""


class Watch:
    """Judges what a run logs, and warns of each fault once, also across resumes.

    A fault of images must show in two grids one after the other.

    Args:
        config: The run's settings; with ``--watch off`` nothing is judged.
        events: The run's event log, open; what it already holds counts as seen and as warned of.
    """

    def __init__(self, config: TrainConfig, events: EventLog) -> None:
        self.config, self.events = config, events
        self.records: deque[_Record] = deque()
        self.suspected: set[tuple[str, str]] = set()  # in the last grid
        earlier = read_events(events.path.parent)
        self.warned = {(w["kind"], w["network"]) for event in earlier for w in event.get("warnings") or ()}
        self.last_step = self.last_look = 0
        for event in earlier:
            if "losses" in event:
                self._add(event["step"], event["losses"])

    def after_log(self, step: int, losses: Mapping[str, float]) -> None:
        """Judges the losses up to a step; `losses` are the means since the record before."""
        if self.config.run.watch == "off":
            return
        self._add(step, losses)
        if step - self.last_look >= LOOK_EVERY:
            self.last_look = step
            self._warn(step, judge_losses(self.records, self.config))

    def after_samples(self, step: int, rows: Sequence[SampleRow]) -> None:
        """Judges the grid of a step."""
        if self.config.run.watch == "off" or step < FIRST_STEP:
            return
        found = judge_images(rows)
        self._warn(step, [finding for finding in found if finding[:2] in self.suspected])
        self.suspected = {finding[:2] for finding in found}

    def _add(self, step: int, losses: Mapping[str, float | None]) -> None:
        self.records.append(_Record(step - self.last_step, losses))
        self.last_step = step
        while sum(record.steps for record in self.records) - self.records[0].steps >= WON_WINDOW:
            self.records.popleft()

    def _warn(self, step: int, findings: Iterable[Finding]) -> None:
        new = [finding for finding in findings if finding[:2] not in self.warned]
        self.warned |= {finding[:2] for finding in new}
        for finding in new:
            log.warning("%s", finding.message)
        if new:
            self.events.write(step, warnings=[finding._asdict() for finding in new])


class _Record(NamedTuple):
    steps: int  # that it covers
    losses: Mapping[str, float | None]  # means over them; None or NaN where one was not finite


def judge_losses(records: Sequence[_Record], config: TrainConfig) -> list[Finding]:
    """Returns what the newest records show.

    Args:
        records: Steps and mean losses of the records so far, oldest first, as many as the windows need.
        config: The settings.
    """
    objective, found = config.objective, []
    if not objective.lambda_gan:
        return []
    steps = [record.steps for record in records]
    for side in "AB":
        of_G = [_number(record.losses.get(f"G_{side}")) / objective.lambda_gan for record in records]
        of_D = [_number(record.losses.get(f"D_{side}")) for record in records]
        for judge in (_won, _diverging):
            found += judge(objective.gan_mode, side, steps, of_D, of_G)
    return found


def _won(mode: GanMode, side: str, steps: list[int], of_D: list[float], of_G: list[float]) -> list[Finding]:
    if mode not in WON or sum(steps) < WON_WINDOW:
        return []
    mean_D, mean_G = (float(np.average(losses, weights=steps)) for losses in (of_D, of_G))
    max_D, min_G = WON[mode]
    if not (mean_D < max_D and mean_G > min_G):
        return []
    return [
        Finding(
            "discriminator won",
            f"D_{side}",
            f"D_{side} has won: over {sum(steps):,} steps its loss was {mean_D:.2g} and G_{side}'s {mean_G:.2g}, so "
            "that the generator learns nothing from it: try --lr 1e-4, half the --ndf, or more and more varied images; "
            + _SEE.format("The discriminator has won"),
        )
    ]


def _diverging(mode: GanMode, side: str, steps: list[int], of_D: list[float], of_G: list[float]) -> list[Finding]:
    larger = np.maximum(np.abs(of_D), np.abs(of_G))  # [records]
    later = sum(steps) - np.cumsum(steps)  # steps after each record
    if sum(steps) < DIVERGED_WINDOW or not (larger[later < DIVERGED_WINDOW] > BOUNDS[mode]).all():
        return []
    return [
        Finding(
            "diverging",
            f"D_{side}",
            f"G_{side} and D_{side} diverge: for {DIVERGED_WINDOW} steps a loss of theirs was above {BOUNDS[mode]:g}, "
            f"and now they are {of_G[-1]:.2g} and {of_D[-1]:.2g}: start from a checkpoint of before with --init-from "
            "and --lr 1e-4; " + _SEE.format("The losses diverge"),
        )
    ]


def _number(loss: float | None) -> float:
    """NaN for what is missing: it is in no bounds, and out of none."""
    return float("nan") if loss is None else loss


def judge_images(rows: Sequence[SampleRow]) -> list[Finding]:
    """Returns what a grid shows.

    Args:
        rows: Images of A and of B, each with its translation.
    """
    pairs = {
        domain: [[_Look.of(image) for image in row.images[:2]] for row in rows if row.domain == domain]
        for domain in "AB"
    }
    inputs = {domain: [looks[0] for looks in of_domain] for domain, of_domain in pairs.items()}
    found: list[Finding] = []
    for domain, other in ("AB", "BA"):
        outputs = [looks[1] for looks in pairs[domain]]
        if outputs:
            finding = _judge_direction(f"G_{domain}", other, inputs[domain], outputs, inputs[other])
            found += [finding] if finding else []
    return found


class _Look(NamedTuple):
    """What is measured of an image; values are in [-1, 1]."""

    mean: float
    deviation: float  # of the values of the channel that varies most
    saturation: float  # share of the values that are within 2 of 255 levels of either end
    thumbnail: np.ndarray  # [32, 32, 3]

    @classmethod
    def of(cls, image: Image.Image) -> _Look:
        counts = np.array(image.histogram(), np.float64).reshape(3, 256)
        counts /= counts[0].sum()
        levels = np.arange(256) / 127.5 - 1
        means = counts @ levels
        deviations = np.sqrt(np.maximum(counts @ levels**2 - means**2, 0))
        ends = counts[:, :3].sum() + counts[:, -3:].sum()
        small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
        return cls(means.mean(), deviations.max(), ends / 3, np.asarray(small, np.float64) / 127.5 - 1)


def _judge_direction(
    generator: str, target: str, inputs: list[_Look], outputs: list[_Look], real: list[_Look]
) -> Finding | None:
    """The worst fault of a direction; `real` are images of its target domain, `target`."""
    return (
        _constant(generator, target, outputs, real)
        or _saturated(generator, target, outputs, real)
        or _one_mode(generator, target, inputs, outputs, real)
        or _inverted(generator, inputs, outputs)
    )


def _constant(generator: str, target: str, outputs: list[_Look], real: list[_Look]) -> Finding | None:
    usual = np.median([look.deviation for look in real]) if real else np.inf
    limit = min(FLAT, FLAT_SHARE * usual)
    if not _most(look.deviation < limit for look in outputs):
        return None
    mean = np.mean([look.mean for look in outputs])
    colour = "black" if mean < -0.95 else "white" if mean > 0.95 else "of one colour"
    return Finding(
        "constant",
        generator,
        f"the images of {generator} are {colour}, and real ones of {target} are not: it has collapsed, and seldom "
        "recovers: start from a checkpoint of before with --init-from and --lr 1e-4; "
        + _SEE.format("Black or constant images"),
    )


def _saturated(generator: str, target: str, outputs: list[_Look], real: list[_Look]) -> Finding | None:
    usual = np.median([look.saturation for look in real]) if real else 0.0
    if usual > NOT_SATURATED or not _most(look.saturation > SATURATED for look in outputs):
        return None
    return Finding(
        "saturated",
        generator,
        f"the images of {generator} hold hardly anything but full black and full colours, as those of {target} do not: "
        "its weights have grown out of range: start from a checkpoint of before with --init-from and --lr 1e-4; "
        + _SEE.format("Black or constant images"),
    )


def _one_mode(
    generator: str, target: str, inputs: list[_Look], outputs: list[_Look], real: list[_Look]
) -> Finding | None:
    usual = min(_variety(inputs), _variety(real))
    if usual < VARIED or _variety(outputs) > ONE_MODE * usual:
        return None
    weight = f"--lambda-{generator[-1]} 20"
    return Finding(
        "one mode",
        generator,
        f"{generator} makes nearly the same image of different inputs, where real images of {target} differ: try "
        f"{weight}, so that more of the input must be restored from the output, or more varied images of {target}; "
        + _SEE.format("One image for all inputs"),
    )


def _inverted(generator: str, inputs: list[_Look], outputs: list[_Look]) -> Finding | None:
    found = [_correlation(*pair) for pair in zip(inputs, outputs, strict=True)]
    if not _most(value < INVERTED for value in found):
        return None
    return Finding(
        "inverted",
        generator,
        f"{generator} makes dark what is bright: the correlation of its input and output is {np.median(found):.2f}. "
        "That may be intended, as between day and night, or labels and photos: --watch off then; if not, start again "
        "with --lambda-identity 1 or another --seed; " + _SEE.format("Colours are inverted"),
    )


def _variety(looks: list[_Look]) -> float:
    """How much of the variance of several thumbnails is between them, from 0 (all alike) to 1."""
    if len(looks) < 2:
        return 0.0
    thumbnails = np.stack([look.thumbnail for look in looks])  # [N, 32, 32, 3]
    total = np.mean((thumbnails - thumbnails.mean(axis=(0, 1, 2))) ** 2)
    between = np.mean((thumbnails - thumbnails.mean(axis=0)) ** 2)
    return float(between / total) if total > 0 else 0.0


def _correlation(first: _Look, second: _Look) -> float:
    """Of the luminances of two images; 0 where one has next to none."""
    a, b = (look.thumbnail.mean(axis=2) for look in (first, second))
    if min(a.std(), b.std()) < CONTRAST:
        return 0.0
    return float(np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std()))


def _most(flags: Iterable[Any]) -> bool:
    return bool(np.mean([bool(flag) for flag in flags]) >= MOST)
