"""python -m cyclegan_fast.evaluate: scores generators on the synthetic scenes, whose truth is known."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cyclegan_fast.cli import EXIT_USER_ERROR, run_command
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import storage_errors, write_atomically

if TYPE_CHECKING:
    import torch

    from cyclegan_fast.evaluation.scenes import Translate

_COLUMNS = {
    "pixel accuracy": "pixel_accuracy",
    "class accuracy": "class_accuracy",
    "class IoU": "class_iou",
    "L1": "l1",
}


def evaluate(
    checkpoint: Path,
    data: Path,
    *,
    out: Path = Path("scores.json"),
    device: str = "auto",
    batch_size: int = 16,
    limit: int | None = None,
    engines: tuple[Path, ...] = (),
    max_drop: float | None = None,
) -> int:
    """Scores both generators of a checkpoint as the paper scores Cityscapes, prints a table and writes it as JSON.

    For example:
        python -m cyclegan_fast.evaluate --checkpoint runs/demo --data data/scenes --out runs/demo/scores.json
        python -m cyclegan_fast.evaluate --checkpoint runs/demo --data data/scenes --engines int8.onnx --max-drop 0.02

    Args:
        checkpoint: A run's folder or one of its checkpoints.
        data: A data set rendered by python -m cyclegan_fast.dataset scenes.
        out: File for the scores.
        device: auto, cpu, cuda or cuda:<index>.
        batch_size: Images translated at a time.
        limit: Score only this many of the test scenes.
        engines: Engine files of one or both directions to be scored, too; the file for the scores then holds theirs,
            and those of the checkpoint under "checkpoint".
        max_drop: How much of the pixel accuracy an engine may lose, by default 0.01; the status is 2 if it loses more.

    Returns:
        Exit status.
    """
    from cyclegan_fast.device import resolve_device
    from cyclegan_fast.evaluation import load_scene_tests, score_scenes, train_reader

    for flag, value in (("--batch-size", batch_size), ("--limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"{flag} must be at least 1, got {value}")
    if max_drop is not None and not engines:
        raise UserError("--max-drop is about engines: name them with --engines")
    prepare_output(out)
    tests = load_scene_tests(data, limit)
    networks = _network_translators(checkpoint, resolve_device(device))
    translators = networks | _engine_translators(engines, device, batch_size)
    reader = train_reader(tests.size, tests.seed)

    scores = score_scenes(networks["BtoA"], networks["AtoB"], tests, reader, batch_size=batch_size)
    print_scores(scores)
    drops: list[str] = []
    if engines:
        engine_scores = score_scenes(translators["BtoA"], translators["AtoB"], tests, reader, batch_size=batch_size)
        print_scores(engine_scores, "Engines: ")
        drops = _drops(scores, engine_scores, 0.01 if max_drop is None else max_drop)
        scores = engine_scores | {"checkpoint": scores}
    write_atomically(out, (json.dumps(scores, indent=1) + "\n").encode())
    print(f"written to {out}")
    for line in drops:
        print(line, file=sys.stderr)
    return EXIT_USER_ERROR if drops else 0


def _network_translators(checkpoint: Path, device: torch.device) -> dict[str, Translate]:
    """Loads both generators of a checkpoint; returns them by direction."""
    from cyclegan_fast.engine.generator import load_both

    generators = load_both(checkpoint, device)
    to_photo, to_labels = generators["AtoB"], generators["BtoA"]
    if (to_photo.in_channels, to_photo.out_channels) != (3, 3):
        raise UserError(f"{checkpoint}: translates grey or other images; the scenes are in colour on both sides")
    return {
        "AtoB": lambda labels: to_photo.network(labels.to(device)),
        "BtoA": lambda photos: to_labels.network(photos.to(device)),
    }


def _engine_translators(paths: tuple[Path, ...], device: str, batch_size: int) -> dict[str, Translate]:
    """Loads engines of one or both directions; returns them by direction."""
    from cyclegan_fast.engine import infer, load_engine

    translators: dict[str, Translate] = {}
    for path in paths:
        engine = load_engine(path, device=device)
        if engine.direction is None:
            raise UserError(f"{path} does not state its direction: --engines takes exported files")
        if engine.direction in translators:
            raise UserError(f"{path} is a second one of {engine.direction}: --engines takes one of each direction")
        if (engine.in_channels, engine.out_channels) != (3, 3):
            raise UserError(f"{path}: translates grey or other images; the scenes are in colour on both sides")
        translators[engine.direction] = functools.partial(infer, engine, batch_size=batch_size)
    return translators


def _drops(scores: dict[str, Any], engine_scores: dict[str, Any], max_drop: float) -> list[str]:
    """Lists the directions in which the engine loses more than `max_drop` of the checkpoint's pixel accuracy."""
    lines = []
    for direction, name in (("AtoB", "labels_to_photo"), ("BtoA", "photo_to_labels")):
        drop = scores[name]["pixel_accuracy"] - engine_scores[name]["pixel_accuracy"]
        if not drop <= max_drop:
            lines.append(
                f"the engine of {direction} loses {drop:.3f} of the pixel accuracy, --max-drop is {max_drop:g}"
            )
    return lines


def prepare_output(out: Path) -> None:
    """Creates the folder of the file `out` and tries to write there, before anything is computed.

    Raises:
        UserError: `out` is a folder, or nothing can be written beside it.
    """
    if out.is_dir():
        raise UserError(f"cannot write {out}: it is a folder; name a file with --out")
    with storage_errors(f"cannot write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()


def print_scores(scores: dict[str, Any], whose: str = "") -> None:
    """Prints the result of `score_scenes` as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{whose}{scores['images']} test scenes of {scores['size']}x{scores['size']} pixels")
    table.add_column("")
    for heading in _COLUMNS:
        table.add_column(heading, justify="right")
    untranslated = scores["untranslated"]
    for name, row in (
        ("photo -> labels", scores["photo_to_labels"]),
        ("  untranslated", untranslated["photo_to_labels"]),
        ("labels -> photo", scores["labels_to_photo"]),
        ("  untranslated", untranslated["labels_to_photo"]),
        ("  real photos", scores["ceiling"]),
    ):
        table.add_row(name, *(f"{row[key]:.3f}" if key in row else "" for key in _COLUMNS.values()))
    Console().print(table)


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process."""
    run_command(evaluate, words, deprecated={"--most-lost": "--max-drop"})


if __name__ == "__main__":
    main()
