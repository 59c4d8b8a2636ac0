"""python -m cyclegan_fast.demo: the whole way, from rendered scenes to a report with images and scores."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from cyclegan_fast.cli import run_command
from cyclegan_fast.config import DataConfig, Loader, ModelConfig, OptimConfig, RunConfig, TrainConfig, to_dict
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import storage_errors

SIZE = 64  # pixels
TRAIN_IMAGES, TEST_IMAGES = 1000, 100  # per domain
STEPS_PER_EPOCH = 100
CURVE_POINTS = 6  # checkpoints that are scored
SHOWN = 6  # test images in the report, per direction
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

    Domain A holds flat label maps, domain B textured photos of other scenes; no pair is ever shown. The test scenes
    exist in both, so the translations can be scored.

    Args:
        out: Folder of everything that the demo makes; an earlier demo in it is replaced.
        steps: Training steps; fewer are quicker and worse.
        device: auto, cpu, cuda or cuda:<index>.
        loader: What brings the images, as for training.
    """
    from cyclegan_fast.data.scenes import render_dataset
    from cyclegan_fast.device import resolve_device
    from cyclegan_fast.engine import build_engine
    from cyclegan_fast.training.trainer import Trainer

    if steps < 1:
        raise UserError(f"--steps must be at least 1, got {steps}")
    resolve_device(device)  # before an earlier demo is replaced
    began = time.perf_counter()
    _make_room(out)
    _say(began, f"rendering {2 * (TRAIN_IMAGES + TEST_IMAGES)} images of {SIZE}x{SIZE} pixels")
    render_dataset(out / "data", SIZE, TRAIN_IMAGES, TEST_IMAGES, seed=0)
    config = settings(out, steps, device, loader)
    _say(began, f"training {steps} steps")
    if status := Trainer(config).run():
        _say(began, "stopped by a signal; what is trained so far is in the folder, and the next demo starts afresh")
        return status
    _say(began, "scoring against the hidden truth")
    history = score_checkpoints(out)
    _say(began, "exporting the engine and translating testA with it")
    onnx = build_engine(out, out / "labels_to_photos.onnx", direction="AtoB", images=out / "data" / "testA")
    translate_tests(onnx, out)
    report = write_demo_report(out, config, history, onnx)
    (out / "scores.json").write_text(json.dumps(history[-1], indent=1) + "\n")
    _tell(history[-1], report, time.perf_counter() - began)
    return 0


def settings(out: Path, steps: int, device: str, loader: Loader) -> TrainConfig:
    """A small CycleGAN that two CPU cores train in minutes: its rate decays over the second half."""
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
            checkpoint_every=max(1, steps // CURVE_POINTS),
            keep_checkpoints=0,
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
    from cyclegan_fast.engine.translation.jobs import plan_jobs

    jobs = plan_jobs(out / "data" / "testA", out / "translated")
    faults = [done.fault for done in translate_files(load_engine(onnx), jobs) if done.fault]
    if faults:
        raise UserError(f"the engine {onnx} could not translate its own test images: {faults[0]}")


def write_demo_report(out: Path, config: TrainConfig, history: list[dict[str, Any]], onnx: Path) -> Path:
    """Writes `out`/report.html: images there and back, scores, curves, settings, machine."""
    from cyclegan_fast.engine import infer, load_engine
    from cyclegan_fast.monitoring.events import read_events
    from cyclegan_fast.monitoring.machine import machine_info
    from cyclegan_fast.monitoring.report import ImageBlock, write_report

    to_photo, to_labels = load_engine(out, direction="AtoB"), load_engine(out, direction="BtoA")
    names = sorted(path.name for path in (out / "data" / "testA").iterdir())[:SHOWN]
    labels, photos = ([out / "data" / folder / name for name in names] for folder in ("testA", "testB"))
    blocks = []
    for title, sources, truth, there, back in (
        ("Labels to photo and back", labels, photos, to_photo, to_labels),
        ("Photo to labels and back", photos, labels, to_labels, to_photo),
    ):
        made = infer(there, sources)
        rows = [list(row) for row in zip(_open(sources), made, infer(back, made), _open(truth), strict=True)]
        columns = ["real", "translated", "and back", "hidden truth"]
        blocks.append(ImageBlock(title=title, columns=columns, rows=rows))
    return write_report(
        out / "report.html",
        title="Labels and photos of scenes, learned without pairs",
        settings=to_dict(config),
        machine=machine_info(),
        events=read_events(out),
        images=blocks,
        scores=history[-1],
        score_history=history,
        usage=USAGE.format(onnx=onnx, example=labels[0]),
        summary="A CycleGAN saw label maps and photos of different scenes, never a pair. On scenes that it has not "
        "seen, it turns one into the other and back; the hidden truth beside them was used for the score alone.",
    )


def _open(paths: list[Path]) -> list[Any]:
    from cyclegan_fast.images import decode

    return [decode(path, 3) for path in paths]


def _make_room(out: Path) -> None:
    """Replaces an earlier demo; any other folder that holds something is left alone."""
    with storage_errors(f"cannot use --out {out}"):
        if out.exists() and any(out.iterdir()):
            if not (out / MARKER).is_file():
                raise UserError(f"--out {out} holds files that are not of an earlier demo; name another folder")
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).write_text('{"made_by": "python -m cyclegan_fast.demo"}\n')


def _say(began: float, text: str) -> None:
    print(f"[{time.perf_counter() - began:4.0f} s] {text}", flush=True)


def _tell(scores: dict[str, Any], report: Path, seconds: float) -> None:
    """The closing lines: what it scored and where to look."""
    for direction, name in (("photo_to_labels", "photo -> labels"), ("labels_to_photo", "labels -> photo")):
        s, before = scores[direction], scores["untranslated"][direction]
        print(
            f"{name}: pixel accuracy {s['pixel_accuracy']:.3f} (untranslated {before['pixel_accuracy']:.3f}), "
            f"class accuracy {s['class_accuracy']:.3f}, class IoU {s['class_iou']:.3f}, L1 {s['l1']:.3f}"
        )
    print(f"done in {seconds:.0f} s; open {report}")


if __name__ == "__main__":
    run_command(demo)
