"""Trains the same small CycleGAN in float32, bfloat16 and, on a GPU, as a CUDA graph, each with several seeds.

python -m benchmarks.agreement --out docs/results            500 steps, three seeds
python -m benchmarks.agreement --out docs/results --steps 50 --seeds 2

What a faster mode may change is the rounding, not the training: its losses and its scores on the test scenes must lie
where other seeds of float32 lie as well. Writes <out>/<device>-agreement.md and .json, with every curve, mode by mode.

For a GPU that is at hand for a minute (make gpu), and without a verdict: `benchmarks.quality` has one, by a test over
more seeds, and more cases (docs/quality.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import DEVICE
from benchmarks.results import Measured, origin, path_of, stamped, write_json, write_page
from cyclegan_fast.checkpoint import load_generators
from cyclegan_fast.config import TrainConfig
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.demo import SIZE, settings
from cyclegan_fast.evaluation import load_scene_tests, score_scenes, train_reader
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.training.trainer import Trainer

PLAIN = "float32"
MODES: dict[str, dict[str, Any]] = {PLAIN: {"amp": "off"}, "bfloat16": {"amp": "bf16"}}
if DEVICE.type == "cuda":
    MODES |= {
        "float16": {"amp": "fp16"},
        "float32, CUDA graph": {"amp": "off", "cuda_graphs": "on"},
        "bfloat16, CUDA graph": {"amp": "bf16", "cuda_graphs": "on"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--steps", type=int, default=500, help="steps of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each mode")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2: one run has no spread")
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        render_dataset(data, SIZE, 400, 50, seed=0)
        tests = load_scene_tests(data)
        reader = train_reader(SIZE, tests.seed)
        for mode, options in MODES.items():
            for seed in range(arguments.seeds):
                out = Path(folder) / f"run{len(runs)}"
                Trainer(run_settings(data, out, arguments.steps, seed, options)).run()
                generators, _ = load_generators(out)
                scores = score_scenes(generators["G_B"], generators["G_A"], tests, reader)
                runs.append({"mode": mode, "seed": seed, "curves": curves(out), "figures": figures(out, scores)})
                print(mode, seed, {name: round(value, 4) for name, value in runs[-1]["figures"].items()}, flush=True)
            write(arguments.out, runs, arguments.steps)  # what comes after may be cut off
    print("\n".join(rows(runs)))


def write(out: Path, runs: list[dict[str, Any]], steps: int) -> None:
    measured = stamped(runs)
    write_json(path_of(out, "-agreement.json"), measured)
    write_page(path_of(out, "-agreement.md"), page(measured, steps))


def run_settings(data: Path, out: Path, steps: int, seed: int, options: dict[str, Any]) -> TrainConfig:
    """The demo's settings, for one mode and one seed."""
    config = settings(out, steps, DEVICE.type)
    changes = {"seed": seed, "log_every": 5, "sample_every": 0, "eval_every": 0, "checkpoint_every": steps, **options}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, data=data),
        run=dataclasses.replace(config.run, **changes),
    )


def curves(out: Path) -> dict[str, list[float]]:
    """Every loss as it was logged."""
    logged = [event["losses"] for event in read_events(out) if "losses" in event]
    return {name: [losses[name] for losses in logged] for name in logged[0]}


def figures(out: Path, scores: dict[str, Any]) -> dict[str, float]:
    """What is compared: each loss over the last fifth of the run, and the scores on the test scenes."""
    lasting = {name: statistics.fmean(curve[-max(1, len(curve) // 5) :]) for name, curve in curves(out).items()}
    return lasting | {
        "photo to labels, pixel accuracy": scores["photo_to_labels"]["pixel_accuracy"],
        "labels to photo, pixel accuracy": scores["labels_to_photo"]["pixel_accuracy"],
    }


def rows(runs: list[dict[str, Any]]) -> list[str]:
    """One line per figure: mean and spread over the seeds for each mode, and how far each mean is from float32's."""
    modes = dict.fromkeys(run["mode"] for run in runs)
    others = [mode for mode in modes if mode != PLAIN]
    lines = ["| | " + " | ".join([PLAIN, *(f"{mode} | away" for mode in others)]) + " |"]
    lines.append("|---" * (2 + 2 * len(others)) + "|")
    for figure in runs[0]["figures"]:
        values = {mode: [run["figures"][figure] for run in runs if run["mode"] == mode] for mode in modes}
        spread = max(statistics.stdev(values[PLAIN]), 1e-12)
        cells = [f"{statistics.fmean(values[PLAIN]):.4f} ± {spread:.4f}"]
        for mode in others:
            mean = statistics.fmean(values[mode])
            away = abs(mean - statistics.fmean(values[PLAIN])) / spread
            cells += [f"{mean:.4f} ± {statistics.stdev(values[mode]):.4f}", f"{away:.1f}"]
        lines.append(f"| {figure} | " + " | ".join(cells) + " |")
    return lines


def page(measured: Measured, steps: int) -> list[str]:
    runs = measured["results"]
    seeds = len({run["seed"] for run in runs})
    return [
        "# Precisions and graphs train alike",
        "",
        "Written by `python -m benchmarks.agreement`.",
        "",
        *origin(measured),
        "",
        f"{steps} steps of the demo's CycleGAN at {SIZE} px with {seeds} seeds: the mean of each loss over the",
        "last fifth of the run, and the scores on the test scenes, with the standard deviation over the seeds.",
        "`away` is the distance of the means in standard deviations of float32's seeds.",
        "",
        *rows(runs),
    ]


if __name__ == "__main__":
    main()
