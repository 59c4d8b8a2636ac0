"""A trained generator, or both of a run, as a folder that is ready to publish: the model card and all it speaks of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from cyclegan_fast.checkpoint import kept_checkpoints, read_settings
from cyclegan_fast.config import TrainConfig, to_dict
from cyclegan_fast.data.catalog.quarantine import list_usable_images
from cyclegan_fast.data.rng import draw_shown
from cyclegan_fast.documents import DocumentError
from cyclegan_fast.engine.backends.torch import TorchBackend
from cyclegan_fast.engine.export.model_card_text import PublishedModel, render_card
from cyclegan_fast.engine.generator import Generator, dump_safetensors, load_both, load_generator
from cyclegan_fast.engine.inference import infer
from cyclegan_fast.engine.tiling.rows import TensorRows, reduce
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import building_folder, storage_errors
from cyclegan_fast.images.model_io import read_input
from cyclegan_fast.metrics import DIRECTIONS, OPPOSITE, Direction
from cyclegan_fast.monitoring.grids import sample_grid, save_grid
from cyclegan_fast.monitoring.scores import PATHS, read_scores

_SAMPLES = 4  # images of each direction
_SAMPLE_SIDE = 256  # pixels that the longer side of a sample has at most
# Settings with paths on the machine that trained, and how that machine was used.
_PRIVATE = {"data": {"data", "data_A", "data_B", "test_A", "test_B"}, "run": {"out", "init_from", "resume", "device"}}


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
        images: Of each direction a folder with images to show, for AtoB that of testA, for example. By default testA
            and testB of the data that the run was trained on, where they are still there. Those that a quarantine list
            in it, or in the data folder above it, names are left out.
        title: The card's heading; by default the name of `out`.
        licence: An SPDX name, such as cc-by-4.0, for the head of the card.
        device: What translates the images.

    Returns:
        `out`.

    Raises:
        UserError: The folder exists, or the checkpoint or an image cannot be used.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if out.exists():
        raise UserError(f"{out} exists already: name a new folder")
    model = _load(checkpoint)
    if images is None:
        images = {d: folder for d, folder in _test_folders(model.config).items() if d in model.generators}
    if unknown := set(images) - set(model.generators):
        raise UserError(
            f"{checkpoint} holds no generator {', '.join(sorted(unknown))}: give images of the other domain"
        )
    files = dict(_files(model))
    with storage_errors(f"cannot write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with building_folder(out) as folder:
            for name, content in files.items():
                (folder / name).write_bytes(content)
            samples = _write_samples(model.generators, images, folder, device)
            card = render_card(model, title=title or out.name, licence=licence, samples=samples, files=files)
            (folder / "README.md").write_text(card)
    return out


def _load(checkpoint: Path) -> PublishedModel:
    if checkpoint.is_file():
        generator = load_generator(checkpoint)
        return PublishedModel(generators={generator.direction: generator}, config=None, step=None, scores={})
    newest = kept_checkpoints(checkpoint)[-1]  # once, as a run may go on meanwhile
    generators, stored = load_both(newest), read_settings(newest)
    step = stored.progress.get("step")
    scores = _read_scores(checkpoint / "scores.json", newest.name, step)
    if not scores and stored.scores:
        of_training = {"name": newest.name, "step": step, "values": stored.scores, "spreads": {}}
        scores = {"protocol": stored.protocol, "scored": [of_training]}
    return PublishedModel(generators=generators, config=stored.config, step=step, scores=scores)


def _read_scores(path: Path, checkpoint: str, step: int | None) -> dict[str, Any]:
    """What python -m cyclegan_fast.evaluate or the demo wrote about this step beside the run; empty if nothing.

    A run that has been moved keeps its scores: of the checkpoint's path the name is compared alone.
    """
    if not path.is_file():
        return {}
    try:
        found = read_scores(path)
    except (OSError, DocumentError) as error:
        raise UserError(f"{path} cannot be read ({error}): score the run again, or remove it") from error
    of_scenes = "scored" not in found  # else of test images, by several checkpoints and engines
    if of_scenes and (Path(found.get("run") or checkpoint).name != checkpoint or found.get("step", step) != step):
        return {}
    found = {name: value for name, value in found.items() if name not in PATHS}
    if of_scenes:
        return found
    rows = [row for row in found["scored"] if step is not None and row.get("step") == step]
    return {**found, "scored": rows[:1]} if rows else {}


def _test_folders(config: TrainConfig | None) -> dict[Direction, Path]:
    root = None if config is None else config.data.data
    folders: dict[Direction, Path] = {} if root is None else {"AtoB": root / "testA", "BtoA": root / "testB"}
    return {direction: folder for direction, folder in folders.items() if folder.is_dir()}


def _files(model: PublishedModel) -> Iterator[tuple[str, bytes]]:
    for direction, generator in model.generators.items():
        yield f"{direction}.safetensors", dump_safetensors(generator)
    if model.config is not None:
        yield "settings.yaml", yaml.safe_dump(_public(model.config), sort_keys=False).encode()
    if model.scores:
        yield "scores.json", (json.dumps(model.scores, indent=1) + "\n").encode()


def _public(config: TrainConfig) -> dict[str, Any]:
    """The settings without paths on the machine that trained."""
    return {
        part: {key: value for key, value in values.items() if key not in _PRIVATE.get(part, ())}
        for part, values in to_dict(config).items()
    }


def _write_samples(
    generators: Mapping[Direction, Generator], images: Mapping[Direction, Path], folder: Path, device: str
) -> list[str]:
    """Writes a grid of each direction that there are images of: the images, translated, and reconstructed.

    Returns:
        The names of the grids' files.
    """
    engines = {d: TorchBackend(generator, name=d, device=device) for d, generator in generators.items()}
    names = []
    for direction in (direction for direction in DIRECTIONS if direction in images):
        engine, back = engines[direction], engines.get(OPPOSITE[direction])
        paths = list_usable_images(images[direction])
        some = [paths[i] for i in sorted(draw_shown(len(paths), _SAMPLES))]
        columns = [[read_input(path, engine.in_format, engine.out_format).values for path in some]]
        columns.append(infer(engine, columns[0], batch_size=1))
        if back is not None:
            columns.append(infer(back, columns[1], batch_size=1))
        labels = [direction[0], f"translated to {direction[-1]}", "reconstruction"][: len(columns)]
        rows = [[_reduced(values) for values in row] for row in zip(*columns, strict=True)]
        names.append(f"{direction}.png")
        save_grid(folder / names[-1], sample_grid(rows, labels))
    return names


def _reduced(values: Tensor) -> Tensor:
    return reduce(TensorRows(values), _SAMPLE_SIDE) if max(values.shape[1:]) > _SAMPLE_SIDE else values
