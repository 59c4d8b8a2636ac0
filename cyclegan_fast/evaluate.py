"""python -m cyclegan_fast.evaluate: scores generators on test images and on scenes, and folders of images."""

from __future__ import annotations

import functools
import inspect
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cyclegan_fast.cli import EXIT_USER_ERROR, run_command
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import storage_errors, write_atomically
from cyclegan_fast.metrics import DEFAULT_SCORE, DIRECTIONS, OPPOSITE, Direction, find_metric
from cyclegan_fast.monitoring.events import finite
from cyclegan_fast.version import __version__

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cyclegan_fast.engine import Engine
    from cyclegan_fast.engine.generator import Generator
    from cyclegan_fast.evaluation.runs import Translators
    from cyclegan_fast.evaluation.scenes import Translate

_COLUMNS = {
    "pixel accuracy": "pixel_accuracy",
    "class accuracy": "class_accuracy",
    "class IoU": "class_iou",
    "L1": "l1",
}
_MODES = ("checkpoint", "run", "images")  # flags, of which each evaluation has one
_ONLY_WITH = {
    "data": ("checkpoint", "run"),
    "against": ("images",),
    "batch_size": ("checkpoint",),
    "engines": ("checkpoint", "run"),
    "max_drop": ("checkpoint",),
    "score": ("run",),
    "features": ("run", "images"),
    "size": ("images",),
    "paired": ("run", "images"),
}


def evaluate(
    checkpoint: Path | None = None,
    data: Path | None = None,
    *,
    run: Path | None = None,
    images: Path | None = None,
    against: Path | None = None,
    out: Path = Path("scores.json"),
    device: str = "auto",
    batch_size: int = 16,
    limit: int | None = None,
    engines: tuple[Path, ...] = (),
    max_drop: float | None = None,
    score: str = DEFAULT_SCORE,
    features: str | None = None,
    features_size: int | None = None,
    size: int | None = None,
    paired: bool = False,
) -> int:
    """Scores generators, or any folder of images against another; prints a table and writes it as JSON.

    For example:
        python -m cyclegan_fast.evaluate --run runs/horse2zebra --data horse2zebra
        python -m cyclegan_fast.evaluate --run runs/horse2zebra --engines a2b.onnx --features dino.pt2
        python -m cyclegan_fast.evaluate --images translated --against horse2zebra/testB --size 256
        python -m cyclegan_fast.evaluate --checkpoint runs/demo --data data/scenes --out runs/demo/scores.json
        python -m cyclegan_fast.evaluate --checkpoint runs/demo --data data/scenes --engines int8.onnx --max-drop 0.02

    Args:
        checkpoint: A run's folder or one of its checkpoints, scored on synthetic scenes as the paper scores Cityscapes.
        data: With --checkpoint: scenes rendered by python -m cyclegan_fast.dataset scenes. With --run: a folder with
            testA and testB, by default the test images of the run.
        run: A run's folder, whose kept checkpoints are all scored on test images; or one checkpoint.
        images: A folder of images that are scored against those of --against.
        against: The folder of images that those of --images should be like.
        out: File for the scores.
        device: auto, cpu, cuda or cuda:<index>.
        batch_size: With --checkpoint: images translated at a time.
        limit: Score only this many images of each folder; with --run by default its --eval-images.
        engines: Engine files of one or both directions to be scored, too, beside --checkpoint or --run. The file for
            the scores of --checkpoint then holds theirs, and those of the checkpoint under "checkpoint".
        max_drop: With --checkpoint: how much of the pixel accuracy an engine may lose, by default 0.01; the status is 2
            if it loses more.
        score: With --run: which score tells the best checkpoint.
        features: With --run or --images: a network for FID, KID, density and coverage: inception, or a file: .onnx,
            .pt2, or TorchScript (.pt).
        features_size: Side in pixels of that network's input; by default what its file states, or 224.
        size: With --images: side in pixels to which all images are resized; by default they stay as they are.
        paired: Score each image against the one of the same name, too: with --images those of --against, with --run the
            translation against the test image of the other domain.

    Returns:
        Exit status.
    """
    _check_flags(locals())
    from cyclegan_fast.device import resolve_device
    from cyclegan_fast.evaluation.features import load_features
    from cyclegan_fast.evaluation.folders import score_folder
    from cyclegan_fast.evaluation.runs import score_run
    from cyclegan_fast.evaluation.tables import print_table

    if max_drop is not None and not engines:
        raise UserError("--max-drop is about engines: name them with --engines")
    if features_size is not None and features is None:
        raise UserError("--features-size is the input of a network: name that with --features")
    find_metric(score)
    prepare_output(out)
    if checkpoint is not None:
        if data is None:
            raise UserError("--data is missing: name the scenes to score --checkpoint on; --run takes any images")
        return _score_on_scenes(checkpoint, data, out, device, batch_size, limit, engines, max_drop)
    if run is None and against is None:
        raise UserError("--against is missing: name the folder of images that those of --images should be like")
    where = resolve_device(device)
    network = None if features is None else load_features(features, where, features_size)
    if run is not None:
        load = functools.partial(_load_engines, engines, device)
        found = score_run(
            run, where, data=data, count=limit, score=score, features=network, paired=paired, engines=load
        )
    else:
        assert images is not None and against is not None
        found = score_folder(images, against, where, size=size, count=limit, paired=paired, features=network)
    print_table(found)
    _write(out, found | _origin(features, engines))
    return 0


def _check_flags(values: Mapping[str, Any]) -> None:
    """Checks that one thing is to be scored, by flags that have an effect on it.

    Args:
        values: The arguments of `evaluate`, by name.

    Raises:
        UserError: There is none or another one, or a flag has none; or a number is below 1.
    """
    given = [mode for mode in _MODES if values[mode] is not None]
    if len(given) != 1:
        got = f"got {' and '.join(map(_flag, given))}" if given else "got none of them"
        engine = "; for an engine alone translate the test images with it, and score those by --images and --against"
        raise UserError(
            f"what is to be scored is named by one of {', '.join(map(_flag, _MODES))}; {got}"
            + engine * bool(values["engines"] and not given)
        )
    parameters = inspect.signature(evaluate).parameters
    for name, modes in _ONLY_WITH.items():
        if given[0] not in modes and values[name] != parameters[name].default:
            raise UserError(f"{_flag(name)} goes with {' or '.join(map(_flag, modes))}, not with {_flag(given[0])}")
    for name in ("batch_size", "limit", "size", "features_size"):
        if values[name] is not None and values[name] < 1:
            raise UserError(f"{_flag(name)} must be at least 1, got {values[name]}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _origin(features: str | None = None, engines: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What scores were computed with, beside the images: for whoever computes them again."""
    from cyclegan_fast.evaluation.features import INCEPTION

    named = features in (None, INCEPTION)
    return {
        "features": features if named else str(Path(str(features)).absolute()),
        "engines": [str(path.absolute()) for path in engines],
        "version": __version__,
    }


def _write(out: Path, found: Mapping[str, Any]) -> None:
    write_atomically(out, (json.dumps(finite(found), indent=1, allow_nan=False) + "\n").encode())
    print(f"written to {out}")


def _load_engines(paths: tuple[Path, ...], device: str, exchanged: bool) -> list[tuple[str, Translators]]:
    """Loads engines; returns the name of each and what it translates, as the networks of the run name directions.

    Two of different directions are scored together, so that their reconstructions are, too.
    """
    from cyclegan_fast.engine import infer

    found: list[tuple[str, Translators]] = []
    for path in paths:
        engine, direction = _load_engine(path, device)
        named = OPPOSITE[direction] if exchanged else direction
        found.append((path.name, {named: functools.partial(infer, engine)}))
    if len(found) == 2 and found[0][1].keys() != found[1][1].keys():
        return [(" + ".join(name for name, _ in found), {**found[0][1], **found[1][1]})]
    return found


def _load_engine(path: Path, device: str) -> tuple[Engine, Direction]:
    from cyclegan_fast.engine import load_engine

    engine = load_engine(path, device=device)
    if engine.direction is None:
        raise UserError(f"{path} does not state its direction: --engines takes exported files")
    return engine, DIRECTIONS[engine.direction == "BtoA"]


def _score_on_scenes(
    checkpoint: Path,
    data: Path,
    out: Path,
    device: str,
    batch_size: int,
    limit: int | None,
    engines: tuple[Path, ...],
    max_drop: float | None,
) -> int:
    """Scores both generators of a checkpoint on synthetic scenes, whose truth is known; returns the exit status."""
    from cyclegan_fast.checkpoint import kept_checkpoints
    from cyclegan_fast.device import resolve_device
    from cyclegan_fast.evaluation import load_scene_tests, score_scenes, train_reader

    tests = load_scene_tests(data, limit)
    checkpoint = kept_checkpoints(checkpoint)[-1]  # once, as a run may go on meanwhile
    networks = _network_translators(checkpoint, resolve_device(device), tests.size)
    translators = networks | _engine_translators(engines, device, batch_size)
    if alone := translators.keys() - networks.keys():
        raise UserError(f"{checkpoint} has no generator of {alone.pop()} to compare with: leave out the engine of that")
    reader = train_reader(tests.size, tests.seed)

    shared = {"protocol": tests.protocol}
    scores = shared | score_scenes(networks.get("BtoA"), networks.get("AtoB"), tests, reader, batch_size=batch_size)
    print_scores(scores)
    drops: list[str] = []
    if engines:
        both = translators.get("BtoA"), translators.get("AtoB")
        engine_scores = shared | score_scenes(*both, tests, reader, batch_size=batch_size)
        print_scores(engine_scores, "Engines: ")
        drops = _drops(scores, engine_scores, 0.01 if max_drop is None else max_drop)
        scores = engine_scores | {"checkpoint": scores}
    paths = {"run": str(checkpoint.absolute()), "data": str(data.absolute()), "files": tests.files}
    _write(out, scores | paths | _origin(engines=engines))
    for line in drops:
        print(line, file=sys.stderr)
    return EXIT_USER_ERROR if drops else 0


def _network_translators(checkpoint: Path, device: torch.device, size: int) -> dict[str, Translate]:
    """Loads the generators of a checkpoint for scenes of `size` pixels; returns them by direction."""
    from cyclegan_fast.engine.generator import load_both

    def translator(generator: Generator) -> Translate:
        if (generator.in_channels, generator.out_channels) != (3, 3):
            raise UserError(f"{checkpoint}: translates grey or other images; the scenes are in colour on both sides")
        if size % generator.size_divisor:
            raise UserError(
                f"{checkpoint}: needs sides that are multiples of {generator.size_divisor}; got {size} pixels"
            )

        def translate(images: Tensor) -> Tensor:
            translated: Tensor = generator.network(images.to(device))
            return translated

        return translate

    return {direction: translator(generator) for direction, generator in load_both(checkpoint, device).items()}


def _engine_translators(paths: tuple[Path, ...], device: str, batch_size: int) -> dict[str, Translate]:
    """Loads engines of one or both directions; returns them by direction."""
    from cyclegan_fast.engine import infer

    translators: dict[str, Translate] = {}
    for path in paths:
        engine, direction = _load_engine(path, device)
        if direction in translators:
            raise UserError(f"{path} is a second one of {direction}: --engines takes one of each direction")
        if (engine.in_channels, engine.out_channels) != (3, 3):
            raise UserError(f"{path}: translates grey or other images; the scenes are in colour on both sides")
        translators[direction] = functools.partial(infer, engine, batch_size=batch_size)
    return translators


def _drops(scores: dict[str, Any], engine_scores: dict[str, Any], max_drop: float) -> list[str]:
    """Lists the directions in which the engine loses more than `max_drop` of the checkpoint's pixel accuracy."""
    lines = []
    for direction, name in (("AtoB", "labels_to_photo"), ("BtoA", "photo_to_labels")):
        if name not in scores or name not in engine_scores:
            continue
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
    """Prints the result of `score_scenes`, and by which protocol, as a table."""
    from rich.console import Console
    from rich.table import Table

    console, table = Console(highlight=False), Table()
    console.print(f"{whose}{scores['protocol']}", markup=False)
    table.add_column("")
    for heading in _COLUMNS:
        table.add_column(heading, justify="right")
    untranslated = scores["untranslated"]
    rows = [("  real photos", scores["ceiling"])]
    for name, title in (("labels_to_photo", "labels -> photo"), ("photo_to_labels", "photo -> labels")):
        if name in scores:  # of a model of both directions both are
            rows = [(title, scores[name]), ("  untranslated", untranslated[name]), *rows]
    for name, row in rows:
        table.add_row(name, *(f"{row[key]:.3f}" if key in row else "" for key in _COLUMNS.values()))
    console.print(table)


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process."""
    run_command(evaluate, words, deprecated={"--most-lost": "--max-drop"})


if __name__ == "__main__":
    main()
