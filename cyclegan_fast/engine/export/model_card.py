"""A trained generator, or both of a run, as a folder that is ready to publish: the model card and all it speaks of."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from cyclegan_fast.checkpoint import load_generators
from cyclegan_fast.config import TrainConfig, to_dict
from cyclegan_fast.engine.backends.torch import TorchBackend
from cyclegan_fast.engine.generator import Generator, dump_safetensors, load_both, load_generator
from cyclegan_fast.engine.inference import infer
from cyclegan_fast.engine.tiling.rows import TensorRows, reduce
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import building_folder, storage_errors
from cyclegan_fast.images.find import list_images
from cyclegan_fast.images.model_io import read_input
from cyclegan_fast.monitoring.grids import sample_grid, save_grid
from cyclegan_fast.nn import Direction
from cyclegan_fast.version import __version__

_DIRECTIONS: tuple[Direction, Direction] = ("AtoB", "BtoA")
_SHOWN = 4  # images of each direction
_SIDE = 256  # pixels that the longer side of a shown image has at most
# Settings that say where something lay on the machine that trained, or how that machine was used.
_PRIVATE = {"data": {"data", "data_A", "data_B"}, "run": {"out", "init_from", "resume", "device"}}


def write_card(
    checkpoint: Path | str,
    out: Path | str,
    *,
    images: Mapping[Direction, Path] | None = None,
    title: str | None = None,
    licence: str | None = None,
    device: str = "auto",
) -> Path:
    """Writes a folder with README.md (the card), weights, settings, a sample grid and scores.

    Args:
        checkpoint: A run's folder (its newest checkpoint), a checkpoint, a .safetensors or .pth file.
        out: The folder; it must not exist, and appears once it is whole.
        images: Of each direction a folder with images to show, that of testA for AtoB, say. By default testA and
            testB of the data that the run was trained on, where they are still there.
        title: The card's heading; by default the name of `out`.
        licence: An SPDX name, cc-by-4.0, say, for the head of the card.
        device: What translates the images.

    Returns:
        `out`.

    Raises:
        UserError: The folder exists, or the checkpoint or an image cannot be used.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if out.exists():
        raise UserError(f"{out} exists already: name a new folder")
    generators, config, step = _load(checkpoint)
    if images is None:
        images = _tests_of(config) if config is not None else {}
    if strange := set(images) - set(generators):
        raise UserError(f"{checkpoint} holds no generator {', '.join(sorted(strange))}: give images of the other way")
    scores = _scores(checkpoint)
    with storage_errors(f"cannot write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with building_folder(out) as folder:
            files = {}
            for direction, generator in generators.items():
                files[f"{direction}.safetensors"] = content = dump_safetensors(generator)
                (folder / f"{direction}.safetensors").write_bytes(content)
            if config is not None:
                files["settings.yaml"] = content = yaml.safe_dump(_public(config), sort_keys=False).encode()
                (folder / "settings.yaml").write_bytes(content)
            if scores:
                files["scores.json"] = content = (json.dumps(scores, indent=1) + "\n").encode()
                (folder / "scores.json").write_bytes(content)
            shown = _show(generators, images, folder, device)
            card = _card(title or out.name, licence, generators, config, step, scores, shown, files)
            (folder / "README.md").write_text(card)
    return out


def _load(checkpoint: Path) -> tuple[dict[Direction, Generator], TrainConfig | None, int | None]:
    """The generators by their direction; of a run or a checkpoint its settings and steps, too."""
    if checkpoint.is_file():
        generator = load_generator(checkpoint)
        return {generator.direction: generator}, None, None
    generators = load_both(checkpoint)
    _, stored = load_generators(checkpoint)
    return generators, stored.config, stored.progress.get("step")


def _tests_of(config: TrainConfig) -> dict[Direction, Path]:
    root = config.data.data
    folders = {} if root is None else {"AtoB": root / "testA", "BtoA": root / "testB"}
    return {direction: folder for direction in _DIRECTIONS if (folder := folders.get(direction)) and folder.is_dir()}


def _scores(checkpoint: Path) -> dict[str, Any]:
    """What python -m cyclegan_fast.evaluate wrote beside the run; empty if nothing."""
    path = checkpoint / "scores.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): score the run again, or remove it") from error
    # Scores of engines have those of the checkpoint, whose weights these are, beside them.
    return found.get("checkpoint", found) if isinstance(found, dict) else {}


def _public(config: TrainConfig) -> dict[str, Any]:
    """The settings without places on the machine that trained."""
    return {
        part: {key: value for key, value in values.items() if key not in _PRIVATE.get(part, ())}
        for part, values in to_dict(config).items()
    }


def _show(
    generators: Mapping[Direction, Generator], images: Mapping[Direction, Path], folder: Path, device: str
) -> list[str]:
    """Writes a grid of each direction that there are images of: as they were, translated, and back."""
    engines = {d: TorchBackend(generator, name=d, device=device) for d, generator in generators.items()}
    shown = []
    for direction in _DIRECTIONS:
        if direction not in images:
            continue
        there, back = engines[direction], engines.get("BtoA" if direction == "AtoB" else "AtoB")
        paths = list_images(images[direction])
        taken = [
            read_input(path, there.in_format, there.out_format).values for path in paths[:: -(-len(paths) // _SHOWN)]
        ]
        made = infer(there, taken, batch_size=1)
        columns = [taken, made] + ([infer(back, made, batch_size=1)] if back is not None else [])
        rows = [[_small(values) for values in row] for row in zip(*columns, strict=True)]
        name = f"{direction}.png"
        save_grid(
            folder / name,
            sample_grid(rows, [direction[0], f"translated to {direction[-1]}", "and back"][: len(columns)]),
        )
        shown.append(name)
    return shown


def _small(values: Tensor) -> Tensor:
    return reduce(TensorRows(values), _SIDE) if max(values.shape[1:]) > _SIDE else values


def _card(
    title: str,
    licence: str | None,
    generators: Mapping[Direction, Generator],
    config: TrainConfig | None,
    step: int | None,
    scores: Mapping[str, Any],
    shown: list[str],
    files: Mapping[str, bytes],
) -> str:
    """README.md, with the head that model hubs read."""
    head: dict[str, Any] = {"license": licence} if licence else {}
    head |= {"library_name": "cyclegan-fast", "pipeline_tag": "image-to-image"}
    head |= {"tags": ["cyclegan", "image-to-image", "unpaired"]}
    first = next(iter(generators))
    lines = ["---", yaml.safe_dump(head, sort_keys=False).rstrip(), "---", "", f"# {title}", ""]
    lines += [
        "A CycleGAN (Zhu et al. 2017): it translates images of one kind into another, and was trained on two sets of "
        "images without pairs.",
        "",
    ]
    lines += [line for name in shown for line in (f"![{name.removesuffix('.png')}: samples]({name})", "")]
    lines += ["## Use", "", "```python", "import cyclegan_fast", ""]
    lines += [f'engine = cyclegan_fast.load_engine("{first}.safetensors")']
    lines += ['cyclegan_fast.infer(engine, "image.jpg").save("translated.png")', "```", ""]
    lines += [f"    python -m cyclegan_fast.translate --engine {first}.safetensors --input images --output translated"]
    lines += [f"    python -m cyclegan_fast.export --checkpoint {first}.safetensors --out {first}.onnx", ""]
    lines += ["## Networks", "", "| file | generator | parameters | takes | makes |", "|---|---|---|---|---|"]
    for direction, generator in generators.items():
        count = sum(math.prod(p.shape) for p in generator.network.parameters())
        kind = f"{generator.model.generator}, ngf {generator.model.ngf}, {generator.model.norm} norm"
        ends = (_pixel_format(generator.in_format), _pixel_format(generator.out_format))
        lines += [f"| {direction}.safetensors | {kind} | {count / 1e6:.1f} million | {ends[0]} | {ends[1]} |"]
    lines += [""]
    if config is not None:
        lines += _training(config, step)
    if scores:
        lines += ["## Scores", "", *_score_table(scores), ""]
    lines += [
        "## Limits",
        "",
        "It renders what its training set taught it, also where the image shows something else: it can remove or "
        "invent what matters, a tumour, say. Do not measure or diagnose on translated images. Images unlike those "
        "of training come out arbitrary.",
        "",
        "## Files",
        "",
        "| file | bytes | sha256 |",
        "|---|---|---|",
    ]
    lines += [f"| {n} | {len(content):,} | `{hashlib.sha256(content).hexdigest()}` |" for n, content in files.items()]
    lines += [
        "",
        f"Written by cyclegan_fast {__version__} with torch {torch.__version__.split('+')[0]}.",
        "",
        "## ImageFile",
        "",
        "Jun-Yan Zhu, Taesung Park, Phillip Isola, Alexei A. Efros. Unpaired Image-to-Image Translation using "
        "Cycle-Consistent Adversarial Networks. ICCV 2017.",
        "",
    ]
    return "\n".join(lines)


def _pixel_format(pixel_format: Any) -> str:
    depth = (
        f"float, {pixel_format.low:g} to {pixel_format.high:g}"
        if pixel_format.depth == "float"
        else f"{pixel_format.depth} bits"
    )
    return f"{pixel_format.channels} channel{'s' if pixel_format.channels > 1 else ''}, {depth}"


def _training(config: TrainConfig, step: int | None) -> list[str]:
    """What matters most of the settings; all are in settings.yaml."""
    data, objective, optim = config.data, config.objective, config.optim
    rows = {
        "steps": f"{step:,}" if step is not None else "unknown",
        "batch size": optim.batch_size,
        "learning rate": f"{optim.lr:g}",
        "adversarial loss": objective.gan_mode,
        "cycle weights": f"{objective.lambda_A:g} and {objective.lambda_B:g}",
        "identity weight": f"{objective.lambda_identity:g}",
        "images": f"{data.preprocess}, {data.load_size} to {data.crop_size} pixels"
        + (", mirrored" if data.flip else ""),
    }
    table = [f"| {name} | {value} |" for name, value in rows.items()]
    return ["## Training", "", "| | |", "|---|---|", *table, "", "All settings: [settings.yaml](settings.yaml).", ""]


def _score_table(scores: Mapping[str, Any]) -> list[str]:
    """Each group of numbers as a row."""
    groups = {name: values for name, values in scores.items() if isinstance(values, dict) and _numbers(values)}
    columns = list(dict.fromkeys(key for values in groups.values() for key in _numbers(values)))
    lines = ["| | " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, values in groups.items():
        cells = [f"{values[key]:.3f}" if key in _numbers(values) else "" for key in columns]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return [*lines, "", "[scores.json](scores.json) has all of them."]


def _numbers(values: Mapping[str, Any]) -> list[str]:
    return [key for key, value in values.items() if isinstance(value, float)]
