"""python -m cyclegan_fast.evaluate: scores a checkpoint on the synthetic scenes, whose truth is known."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from cyclegan_fast.cli import run_command
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import storage_errors, write_atomically

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
) -> None:
    """Scores both generators of a checkpoint as the paper scores Cityscapes, prints a table and writes it as JSON.

    Example: python -m cyclegan_fast.evaluate --checkpoint runs/demo --data data/scenes --out runs/demo/scores.json

    Args:
        checkpoint: A run's folder or one of its checkpoints.
        data: A data set rendered by python -m cyclegan_fast.dataset scenes.
        out: File for the scores.
        device: auto, cpu, cuda or cuda:<index>.
        batch_size: Images translated at a time.
        limit: Score only this many of the test scenes.
    """
    from cyclegan_fast.device import resolve_device
    from cyclegan_fast.engine.generator import load_both
    from cyclegan_fast.evaluation import load_scene_tests, score_scenes, train_reader

    for flag, value in (("--batch-size", batch_size), ("--limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"{flag} must be at least 1, got {value}")
    where = resolve_device(device)
    prepare_output(out)
    tests = load_scene_tests(data, limit)
    generators = load_both(checkpoint, where)
    to_photo, to_labels = generators["AtoB"], generators["BtoA"]
    if (to_photo.in_channels, to_photo.out_channels) != (3, 3):
        raise UserError(f"{checkpoint}: translates grey or other images; the scenes are in colour on both sides")
    scores = score_scenes(
        lambda photos: to_labels.network(photos.to(where)),
        lambda labels: to_photo.network(labels.to(where)),
        tests,
        train_reader(tests.size, tests.seed),
        batch_size=batch_size,
    )
    write_atomically(out, (json.dumps(scores, indent=1) + "\n").encode())
    print_scores(scores)
    print(f"written to {out}")


def prepare_output(out: Path) -> None:
    """Makes the folder of the file `out` and tries it, so that nothing is computed that cannot be kept.

    Raises:
        UserError: `out` is a folder, or nothing can be written beside it.
    """
    if out.is_dir():
        raise UserError(f"cannot write {out}: it is a folder; name a file with --out")
    with storage_errors(f"cannot write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()


def print_scores(scores: dict[str, Any]) -> None:
    """Prints the result of `score_scenes` as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{scores['images']} test scenes of {scores['size']}x{scores['size']} pixels")
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


if __name__ == "__main__":
    run_command(evaluate)
