"""The text of a model card: README.md with the head that model hubs read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from cyclegan_fast.config import PixelFormat, TrainConfig
from cyclegan_fast.engine.generator import Generator
from cyclegan_fast.metrics import METRICS, OPPOSITE, Direction
from cyclegan_fast.models import MODELS, Model, model_of
from cyclegan_fast.version import __version__

_CARD = """---
{head}
---

# {title}

{what}

{samples}## Use

```python
import cyclegan_fast

engine = cyclegan_fast.load_engine("{first}.safetensors")
cyclegan_fast.infer(engine, "image.jpg").save("translated.png")
```

    python -m cyclegan_fast.translate --engine {first}.safetensors --input images --output translated
    python -m cyclegan_fast.export --checkpoint {first}.safetensors --out {first}.onnx

## Networks

{networks}

{training}{scores}## Limits

It renders what its training set taught it, also where the image shows something else: it can remove or invent what \
matters, a tumour, for example. Do not measure or diagnose on translated images. Images unlike those of training come \
out arbitrary.

## Files

{files}

Written by cyclegan_fast {version} with torch {torch}.

## Source

{paper}
"""
_CYCLEGAN = (
    "Jun-Yan Zhu, Taesung Park, Phillip Isola, Alexei A. Efros. Unpaired Image-to-Image Translation using "
    "Cycle-Consistent Adversarial Networks. ICCV 2017."
)
_PIX2PIX = (
    "Phillip Isola, Jun-Yan Zhu, Tinghui Zhou, Alexei A. Efros. Image-to-Image Translation with Conditional "
    "Adversarial Networks. CVPR 2017."
)


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """What a card is about."""

    generators: Mapping[Direction, Generator]
    config: TrainConfig | None
    """None where the checkpoint does not hold it."""
    step: int | None
    scores: Mapping[str, Any]
    """As python -m cyclegan_fast.evaluate wrote them; empty if nothing was scored."""


def render_card(
    model: PublishedModel, *, title: str, licence: str | None, samples: Sequence[str], files: Mapping[str, bytes]
) -> str:
    """Renders the card.

    Args:
        model: What it is about.
        title: Its heading.
        licence: An SPDX name.
        samples: Names of the files with sample images.
        files: The contents of the published files by their names.
    """
    head: dict[str, Any] = {"license": licence} if licence else {}
    head |= {"library_name": "cyclegan-fast", "pipeline_tag": "image-to-image"}
    name = next(iter(model.generators.values())).model.model
    head |= {"tags": [name, "image-to-image", "paired" if MODELS[name].needs_pairs else "unpaired"]}
    return _CARD.format(
        what=_what(MODELS[name]),
        head=yaml.safe_dump(head, sort_keys=False).rstrip(),
        title=title,
        samples="".join(f"![{name.removesuffix('.png')}: samples]({name})\n\n" for name in samples),
        first=next(iter(model.generators)),
        networks=_network_table(model.generators),
        training="" if model.config is None else _training(model.config, model.step),
        scores=_test_scores(model) if "scored" in model.scores else _scores(model.scores) if model.scores else "",
        files=_table(
            ["file", "bytes", "sha256"],
            (
                [name, f"{len(content):,}", f"`{hashlib.sha256(content).hexdigest()}`"]
                for name, content in files.items()
            ),
        ),
        version=__version__,
        torch=torch.__version__.split("+")[0],
        paper=_PIX2PIX if MODELS[name].needs_pairs else _CYCLEGAN,
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _network_table(generators: Mapping[Direction, Generator]) -> str:
    rows = []
    for direction, generator in generators.items():
        parameters = sum(parameter.numel() for parameter in generator.network.parameters())
        kind = f"{generator.model.generator}, ngf {generator.model.ngf}, {generator.model.norm} norm"
        formats = _pixel_format(generator.in_format), _pixel_format(generator.out_format)
        rows.append([f"{direction}.safetensors", kind, f"{parameters / 1e6:.1f} million", *formats])
    return _table(["file", "generator", "parameters", "input", "output"], rows)


def _what(model: Model) -> str:
    """What was trained, and on what."""
    if model.needs_pairs:
        paper, data = " (Isola et al. 2017)", "pairs of images, each with what it is to become"
    else:
        paper = " (Zhu et al. 2017)" if model.title == "CycleGAN" else ""
        data = "two sets of images without pairs"
    return f"A {model.title}{paper} model: it translates images of one kind into another, and was trained on {data}."


def _pixel_format(pixel_format: PixelFormat) -> str:
    depth = f"{pixel_format.depth} bits"
    if pixel_format.depth == "float":
        depth = f"float, {pixel_format.low:g} to {pixel_format.high:g}"
    return f"{pixel_format.channels} channel{'s' if pixel_format.channels > 1 else ''}, {depth}"


def _training(config: TrainConfig, step: int | None) -> str:
    """The main settings; all are in settings.yaml."""
    data, objective, optim, losses = config.data, config.objective, config.optim, model_of(config).losses
    weights = {
        "cycle_A": ("cycle weights", f"{objective.lambda_A:g} and {objective.lambda_B:g}"),
        "idt_A": ("identity weight", f"{objective.lambda_identity:g}"),
        "L1_A": ("weight of L1 to the partner", f"{objective.lambda_L1:g}"),
        "self_A": ("weight of L1 to the input", f"{objective.lambda_self:g}"),
    }
    settings = {
        "steps": f"{step:,}" if step is not None else "unknown",
        "batch size": optim.batch_size,
        "learning rate": f"{optim.lr:g}",
        "adversarial loss": objective.gan_mode,
        **dict(weights[loss] for loss in losses if loss in weights),
        "images": f"{data.preprocess}, {data.load_size} to {data.crop_size} pixels"
        + (", mirrored" if data.flip else ""),
    }
    table = _table(["setting", "value"], ([name, str(value)] for name, value in settings.items()))
    return f"## Training\n\n{table}\n\nAll settings: [settings.yaml](settings.yaml).\n\n"


def _test_scores(model: PublishedModel) -> str:
    """The scores of the test images, a row for each metric; directions as the folders have them."""
    (row,) = model.scores["scored"]
    exchanged = model.config is not None and model.config.data.direction == "BtoA"  # what the networks call A and B
    rows = []
    for name, metric in METRICS.items():
        names = [f"{name}_{OPPOSITE[direction] if exchanged else direction}" for direction in model.generators]
        if any(row["values"].get(score) is not None for score in names):
            better = "higher" if metric.higher_is_better else "lower"
            rows.append([metric.title, *(_with_spread(row, score) for score in names), better])
    table = _table(["score", *model.generators, "better is"], rows)
    what = model.scores["protocol"] or "test images"
    return f"## Scores\n\n{table}\n\nOf {what}. [scores.json](scores.json) has all of them.\n\n"


def _with_spread(row: Mapping[str, Any], score: str) -> str:
    value, spread = row["values"].get(score), row["spreads"].get(score)
    if value is None:
        return ""
    return f"{value:.4g}" + (f" ± {spread:.2g}" if spread is not None else "")


def _scores(scores: Mapping[str, Any]) -> str:
    """Each group of numbers as a row."""
    groups = {name: _numbers(values) for name, values in scores.items() if isinstance(values, dict)}
    columns = list(dict.fromkeys(key for numbers in groups.values() for key in numbers))
    rows = (
        [name.replace("_", " "), *(f"{numbers[key]:.3f}" if key in numbers else "" for key in columns)]
        for name, numbers in groups.items()
        if numbers
    )
    table = _table(["score", *(name.replace("_", " ") for name in columns)], rows)
    return f"## Scores\n\n{table}\n\n[scores.json](scores.json) has all of them.\n\n"


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in values.items() if isinstance(value, float)}
