"""What each study compares: variants as settings, and the numbers that the paper gives for them.

The paper is Zhu et al. 2017 (arXiv 1703.10593): its tables 2 and 3 are the rivals, 4 and 5 the ablation, figure 9 the
identity loss. Domain A holds label maps, domain B photos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from cyclegan_fast.errors import UserError, did_you_mean
from cyclegan_fast.metrics import Direction
from cyclegan_fast.models import MODELS, Model

Task = Literal["labels_to_photo", "photo_to_labels"]
TASKS: dict[Task, str] = {"labels_to_photo": "labels → photo", "photo_to_labels": "photo → labels"}
DIRECTION_OF: dict[Task, Direction] = {"labels_to_photo": "AtoB", "photo_to_labels": "BtoA"}


class Metric(NamedTuple):
    """A column of a table."""

    title: str
    higher_is_better: bool | None
    """None of what is best at 1."""


METRICS = {
    "pixel_accuracy": Metric("pixel accuracy", True),
    "class_accuracy": Metric("class accuracy", True),
    "class_iou": Metric("class IoU", True),
    "variety": Metric("variety", None),
    "l1": Metric("L1 to the truth", False),
    "color": Metric("colour distance to the target's images", False),
    "color_input": Metric("colour distance to the input", False),
}
OF_THE_PAPER = ("pixel_accuracy", "class_accuracy", "class_iou")  # in the order of its tables


@dataclass(frozen=True)
class Variant:
    """One line of a table."""

    name: str
    title: str
    settings: Mapping[str, Any]
    """What differs from the settings of every run, by name."""
    paper: Mapping[Task, tuple[float, float, float]] = field(default_factory=dict)
    """The paper's pixel accuracy, class accuracy and class IoU; empty where it gives none."""

    @property
    def model(self) -> Model:
        """What is trained."""
        return MODELS[self.settings.get("model", "cyclegan")]

    @property
    def one_direction(self) -> bool:
        """Whether a run learns one direction alone, so that it takes two."""
        return len(self.model.directions) == 1

    @property
    def parts(self) -> dict[Direction, tuple[Task, ...]]:
        """What its runs learn, by --direction."""
        if self.one_direction:
            return {DIRECTION_OF[task]: (task,) for task in TASKS}
        return {"AtoB": tuple(TASKS)}


@dataclass(frozen=True)
class Claim:
    """What the paper says of two variants by one score."""

    task: Task
    metric: str
    better: str
    """The name of a variant."""
    worse: str
    paper: tuple[float, float] | None = None
    """The paper's numbers for both; None where it shows images alone."""


@dataclass(frozen=True)
class Study:
    """A table of the paper."""

    name: str
    title: str
    source: str
    """Where it stands in the paper."""
    variants: tuple[Variant, ...]
    metrics: tuple[str, ...] = OF_THE_PAPER
    own_claims: tuple[Claim, ...] = ()
    """Those that the paper makes without numbers."""

    def claims(self) -> list[Claim]:
        """Returns every order of two variants that the paper's numbers give; equal numbers give none."""
        found = list(self.own_claims)
        for task in TASKS:
            known = [variant for variant in self.variants if task in variant.paper]
            for i, metric in enumerate(OF_THE_PAPER):
                for j, one in enumerate(known):
                    for other in known[j + 1 :]:
                        high, low = sorted((one, other), key=lambda variant: -variant.paper[task][i])
                        numbers = high.paper[task][i], low.paper[task][i]
                        if numbers[0] > numbers[1]:
                            found.append(Claim(task, metric, high.name, low.name, numbers))
        return found

    def find(self, name: str) -> Variant:
        """Returns the variant of that name, with dashes or underscores.

        Raises:
            UserError: There is none; the nearest one is named.
        """
        known = {variant.name: variant for variant in self.variants}
        found = known.get(name.replace("_", "-"))
        if found is None:
            hint = did_you_mean(name, known)
            raise UserError(f"--only {name}: {self.name} has no such variant{hint} (it has {', '.join(known)})")
        return found


FULL = Variant(
    "cyclegan",
    "CycleGAN",
    {},
    {"labels_to_photo": (0.52, 0.17, 0.11), "photo_to_labels": (0.58, 0.22, 0.16)},
)

ABLATION = Study(
    name="ablation",
    title="What each loss is good for",
    source="tables 4 and 5",
    metrics=(*OF_THE_PAPER, "variety"),
    variants=(
        Variant(
            "cycle-alone",
            "cycle alone",
            {"lambda_gan": 0.0},
            {"labels_to_photo": (0.22, 0.07, 0.02), "photo_to_labels": (0.10, 0.05, 0.02)},
        ),
        Variant(
            "gan-alone",
            "GAN alone",
            {"lambda_A": 0.0, "lambda_B": 0.0},
            {"labels_to_photo": (0.51, 0.11, 0.08), "photo_to_labels": (0.53, 0.11, 0.07)},
        ),
        Variant(
            "gan-forward",
            "GAN + forward cycle",
            {"lambda_B": 0.0},
            {"labels_to_photo": (0.55, 0.18, 0.12), "photo_to_labels": (0.49, 0.11, 0.06)},
        ),
        Variant(
            "gan-backward",
            "GAN + backward cycle",
            {"lambda_A": 0.0},
            {"labels_to_photo": (0.39, 0.14, 0.06), "photo_to_labels": (0.01, 0.06, 0.01)},
        ),
        FULL,
    ),
)

IDENTITY = Study(
    name="identity",
    title="What the identity loss keeps",
    source="figure 9, of paintings and photos",
    variants=(
        Variant("cyclegan", "without identity loss", {}),
        Variant("identity", "with identity loss 0.5", {"lambda_identity": 0.5}),
    ),
    metrics=("pixel_accuracy", "class_iou", "l1", "color", "color_input"),
    own_claims=(
        Claim("labels_to_photo", "color_input", "identity", "cyclegan"),
        Claim("photo_to_labels", "color_input", "identity", "cyclegan"),
    ),
)

RIVALS = Study(
    name="rivals",
    title="Other methods",
    source="tables 2 and 3",
    variants=(
        Variant(
            "cogan",
            "CoGAN",
            {"model": "cogan"},
            {"labels_to_photo": (0.40, 0.10, 0.06), "photo_to_labels": (0.45, 0.11, 0.08)},
        ),
        Variant(
            "bigan",
            "BiGAN",
            {"model": "bigan"},
            {"labels_to_photo": (0.19, 0.06, 0.02), "photo_to_labels": (0.41, 0.13, 0.07)},
        ),
        Variant(
            "simgan",
            "SimGAN",
            {"model": "simgan"},
            {"labels_to_photo": (0.20, 0.10, 0.04), "photo_to_labels": (0.47, 0.11, 0.07)},
        ),
        Variant(
            "feature-gan",
            "feature loss + GAN",
            {"model": "feature_gan"},
            {"labels_to_photo": (0.06, 0.04, 0.01), "photo_to_labels": (0.50, 0.10, 0.06)},
        ),
        FULL,
        Variant(
            "pix2pix",
            "pix2pix, on pairs",
            {"model": "pix2pix"},
            {"labels_to_photo": (0.71, 0.25, 0.18), "photo_to_labels": (0.85, 0.40, 0.32)},
        ),
    ),
    metrics=(*OF_THE_PAPER, "variety"),
)

STUDIES = {study.name: study for study in (ABLATION, RIVALS, IDENTITY)}
