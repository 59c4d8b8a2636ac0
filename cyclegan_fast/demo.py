"""python -m cyclegan_fast.demo: all of it in one command, from rendered scenes to a report with images and scores."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cyclegan_fast.cli import run_command
from cyclegan_fast.config import DataConfig, Loader, ModelConfig, OptimConfig, RunConfig, TrainConfig, to_dict
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import storage_errors, write_atomically

log = logging.getLogger(__name__)

SIZE = 64  # pixels
TRAIN_IMAGES, TEST_IMAGES = 1000, 100  # per domain
STEPS_PER_EPOCH = 100
SCORED_CHECKPOINTS = 6
EVAL_IMAGES = 16  # of each domain, whose scores take a second each time
REPORT_IMAGES = 6  # of each direction
MARKER = "demo.json"  # a folder that holds this may be replaced by the next demo

USAGE = """import cyclegan_fast

engine = cyclegan_fast.load_engine("{onnx}")
photo = cyclegan_fast.infer(engine, "{example}")
photo.save("photo.png")"""


def demo(
    out: Path = Path("runs/demo"),
    *,
    steps: int = 3000,
    device: str = "auto",
    loader: Loader = "auto",
) -> int:
    """Renders scenes, trains on them, scores the result against the hidden truth, exports an engine, writes a report.

    Example: python -m cyclegan_fast.demo --out runs/demo

    Domain A holds flat label maps, domain B textured photos of other scenes; training sees no pair. The test scenes
    exist in both, so the translations can be scored.

    Args:
        out: Folder of the results; an earlier demo in it is replaced.
        steps: Training steps; fewer are faster and give worse images.
        device: auto, cpu, cuda or cuda:<index>.
        loader: What makes the batches, as for training.
    """
    from cyclegan_fast.data.scenes import render_dataset
    from cyclegan_fast.device import resolve_device
    from cyclegan_fast.engine import build_engine
    from cyclegan_fast.monitoring.progress import duration
    from cyclegan_fast.training.trainer import Trainer

    if steps < 1:
        raise UserError(f"--steps must be at least 1, got {steps}")
    resolve_device(device)  # before an earlier demo is replaced
    start = time.perf_counter()
    _replace_earlier_demo(out)
    log.info("rendering %d images of %dx%d pixels", 2 * (TRAIN_IMAGES + TEST_IMAGES), SIZE, SIZE)
    render_dataset(out / "data", SIZE, TRAIN_IMAGES, TEST_IMAGES, seed=0)
    config = settings(out, steps, device, loader)
    log.info("training %d steps", steps)
    if status := Trainer(config).run():
        log.info("stopped by a signal after a checkpoint; the next demo starts afresh")
        return status
    log.info("scoring against the hidden truth")
    history = score_checkpoints(out)
    log.info("exporting an engine and translating testA with it")
    onnx = build_engine(out, out / "labels_to_photos.onnx", direction="AtoB", images=out / "data" / "testA")
    translate_tests(onnx, out)
    report = write_demo_report(out, config, history, onnx)
    write_atomically(out / "scores.json", (json.dumps(history[-1], indent=1) + "\n").encode())
    _print_scores(history[-1])
    log.info("done in %s; open %s", duration(time.perf_counter() - start), report)
    return 0


def settings(out: Path, steps: int, device: str, loader: Loader) -> TrainConfig:
    """Returns settings that two CPU cores train in minutes: a small CycleGAN whose rate decays over the second half."""
    from cyclegan_fast import ops
    from cyclegan_fast.device import resolve_device

    epochs = max(2, math.ceil(steps / STEPS_PER_EPOCH))
    return TrainConfig(
        model=ModelConfig(generator="resnet_3blocks", ngf=16, ndf=32, discriminator="n_layers", n_layers=2),
        optim=OptimConfig(lr=4e-4, n_epochs=epochs - epochs // 2, n_epochs_decay=epochs // 2),
        data=DataConfig(data=out / "data", load_size=SIZE, crop_size=SIZE, epoch_size=STEPS_PER_EPOCH, loader=loader),
        run=RunConfig(
            out=out,
            device=device,
            amp="off" if ops.bfloat16_is_slow(resolve_device(device)) else "bf16",
            max_steps=steps,
            log_every=20,
            sample_every=max(1, steps // 4),
            checkpoint_every=max(1, steps // SCORED_CHECKPOINTS),
            keep_checkpoints=0,
            keep_best=0,
            eval_every=max(1, steps // SCORED_CHECKPOINTS),
            eval_images=EVAL_IMAGES,
        ),
    )


def score_checkpoints(out: Path) -> list[dict[str, Any]]:
    """Scores every checkpoint of the run, oldest first, each as ``{"step": int, **score_scenes(...)}``."""
    from cyclegan_fast.checkpoint import load_generators
    from cyclegan_fast.evaluation import load_scene_tests, score_scenes, train_reader

    tests = load_scene_tests(out / "data")
    reader = train_reader(SIZE, tests.seed)
    history = []
    for checkpoint in sorted((out / "checkpoints").glob("step_*")):
        generators, stored = load_generators(checkpoint)
        scores = score_scenes(generators["G_B"], generators["G_A"], tests, reader)
        history.append({"step": stored.progress["step"], **scores})
    return history


def translate_tests(onnx: Path, out: Path) -> None:
    """Translates testA into `out`/translated with the exported engine."""
    from cyclegan_fast.engine import load_engine
    from cyclegan_fast.engine.translation.files import translate_files
    from cyclegan_fast.engine.translation.tasks import plan_tasks

    tasks = plan_tasks(out / "data" / "testA", out / "translated")
    faults = [result.fault for result in translate_files(load_engine(onnx), tasks) if result.fault]
    if faults:
        raise UserError(f"the engine {onnx} could not translate its own test images: {faults[0]}")


def write_demo_report(out: Path, config: TrainConfig, history: list[dict[str, Any]], onnx: Path) -> Path:
    """Writes `out`/report.html: translations and reconstructions, scores, curves, settings, machine."""
    from cyclegan_fast.engine import infer, load_engine
    from cyclegan_fast.monitoring.events import read_events
    from cyclegan_fast.monitoring.machine import machine_info
    from cyclegan_fast.monitoring.page import ImageBlock
    from cyclegan_fast.monitoring.report import write_report
    from cyclegan_fast.monitoring.run_report import sample_history

    to_photo, to_labels = load_engine(out, direction="AtoB"), load_engine(out, direction="BtoA")
    names = sorted(path.name for path in (out / "data" / "testA").iterdir())[:REPORT_IMAGES]
    labels, photos = ([out / "data" / folder / name for name in names] for folder in ("testA", "testB"))
    blocks = []
    columns = ["real", "translated", "reconstructed", "hidden truth"]
    for title, sources, truth, engine, inverse in (
        ("Labels to photo and back", labels, photos, to_photo, to_labels),
        ("Photo to labels and back", photos, labels, to_labels, to_photo),
    ):
        translated = infer(engine, sources)
        reconstructed = infer(inverse, translated)
        rows = [list(row) for row in zip(_open(sources), translated, reconstructed, _open(truth), strict=True)]
        blocks.append(ImageBlock(title=title, columns=columns, rows=rows))
    return write_report(
        out / "report.html",
        title="Labels and photos of scenes, learned without pairs",
        settings=to_dict(config),
        machine=machine_info(),
        events=read_events(out),
        images=blocks,
        history=sample_history(out),
        scores=history[-1],
        score_history=history,
        usage=USAGE.format(onnx=onnx, example=labels[0]),
        summary="A CycleGAN saw label maps and photos of different scenes, never a pair. On scenes that it has not "
        "seen, it turns one into the other and back; the hidden truth beside them was used for the score alone.",
    )


def _open(paths: list[Path]) -> list[Any]:
    from cyclegan_fast.images import decode

    return [decode(path, 3) for path in paths]


def _replace_earlier_demo(out: Path) -> None:
    """Empties the folder of an earlier demo; a folder with any other content is refused."""
    with storage_errors(f"cannot use --out {out}"):
        if out.exists() and any(out.iterdir()):
            if not (out / MARKER).is_file():
                raise UserError(f"--out {out} holds files that are not of an earlier demo; name another folder")
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).write_text('{"made_by": "python -m cyclegan_fast.demo"}\n')


def _print_scores(scores: dict[str, Any]) -> None:
    for direction, name in (("photo_to_labels", "photo -> labels"), ("labels_to_photo", "labels -> photo")):
        s, before = scores[direction], scores["untranslated"][direction]
        print(
            f"{name}: pixel accuracy {s['pixel_accuracy']:.3f} (untranslated {before['pixel_accuracy']:.3f}), "
            f"class accuracy {s['class_accuracy']:.3f}, class IoU {s['class_iou']:.3f}, L1 {s['l1']:.3f}"
        )


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with these words; by default those of this process."""
    run_command(demo, words)


if __name__ == "__main__":
    main()
