"""The loaders: images a second in each mode of preprocessing, and how long the steps of a training wait for them.

pytest benchmarks/bench_data.py --benchmark-only      each case alone
python -m benchmarks.measure --out docs/results --only data      all taking turns, and the tables

The images are made here: noise with the spectrum of photographs, in several sizes. What a loader needs but once (the
processes of torch, the decoded set of cache) is there before the clock starts.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import harness
from benchmarks.harness import DEVICE, timed_rounds
from benchmarks.results import Measured
from cyclegan_fast.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from cyclegan_fast.data import Loader
from cyclegan_fast.data.loaders import LOADERS
from cyclegan_fast.data.loaders.build import build_samples
from cyclegan_fast.data.loaders.samples import Samples
from cyclegan_fast.monitoring.events import read_events
from cyclegan_fast.training.trainer import Trainer

MODES = get_args(get_type_hints(DataConfig)["preprocess"])
BASELINE = "torch"
SIZES = ((640, 480), (480, 640), (600, 600), (800, 533))  # pixels, as photographs on the web have them
IMAGES = 4 if harness.quick else 24  # of each domain
SETS = {"JPEG": ".jpg", "PNG": ".png"}
CASES = [(mode, "JPEG") for mode in MODES] + [(MODES[0], "PNG")]
ROUNDS = 5
TURN_SECONDS = 0.5  # that a loader's turn is timed for
WARM_UP = 8  # batches
STEPS = 40 if harness.quick else 60  # of a training; the first 20, in which kernels are chosen, are not counted
IMAGE_SET = f"batch 1, the paper's geometry, {IMAGES} images of each domain, 480x640 to 800x533 pixels"


def write_images(root: Path, suffix: str) -> Path:
    """Writes trainA and trainB; returns their folder."""
    rng = np.random.default_rng(0)
    for domain in ("trainA", "trainB"):
        (root / domain).mkdir(parents=True)
        for i in range(IMAGES):
            photograph(rng, *SIZES[i % len(SIZES)]).save(root / domain / f"{i:03d}{suffix}", quality=90)
    return root


def photograph(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise whose octaves halve in strength as they double in fineness, as those of photographs about do."""
    total = np.zeros((height, width, 3))
    for octave in range(1, 9):
        grain = rng.normal(size=(2**octave, 2**octave, 3)) / 2**octave
        for channel in range(3):
            layer = Image.fromarray(grain[..., channel].astype(np.float32))
            total[..., channel] += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC))
    low, high = np.percentile(total, (1, 99))
    return Image.fromarray(np.uint8(np.clip(255 * (total - low) / (high - low), 0, 255)))


def settings(folder: Path, **data: Any) -> TrainConfig:
    return TrainConfig(data=DataConfig(data=folder, **data))


def samples_of(folder: Path, mode: str) -> Samples:
    return build_samples(settings(folder, preprocess=mode), size_divisor=4, min_size=24)


def usable_loaders(samples: Samples) -> tuple[list[str], dict[str, str]]:
    """The loaders that can serve here, and why the others cannot."""
    reasons = {name: kind.why_not(samples, DEVICE) for name, kind in LOADERS.items()}
    names = [BASELINE, *(name for name, reason in reasons.items() if reason is None and name != BASELINE)]
    return names, {name: reason for name, reason in reasons.items() if reason is not None}


class Turn:
    """A loader that gives batches for a while, now and then."""

    def __init__(self, name: str, samples: Samples) -> None:
        self.make: Callable[[], Loader] = lambda: LOADERS[name](samples, device=DEVICE, channels_last=True)
        self.cached = self.make() if name == "cache" else None  # what it decoded is used in every turn

    def __call__(self) -> float:
        """Images a second of both domains together."""
        loader = self.cached or self.make()
        with contextlib.closing(loader):
            for _ in range(WARM_UP):
                next(loader)
            _finish()
            batches, began = 0, time.perf_counter()
            while time.perf_counter() - began < TURN_SECONDS:
                next(loader)
                batches += 1
            _finish()
            return 2 * batches / (time.perf_counter() - began)


def take_turns(turns: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each returned in every round, in an order that rotates."""
    names = list(turns)
    found: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            found[name].append(turns[name]())
    return found


def times(found: dict[str, list[float]], name: str) -> float:
    """How many times more than the baseline: the median of the rounds' ratios."""
    return statistics.median(ours / base for ours, base in zip(found[name], found[BASELINE], strict=True))


def train_for_a_while(name: str, folder: Path) -> dict[str, float]:
    """Trains with a loader; returns the share of the time that was spent waiting for it, and the speed."""
    cuda = DEVICE.type == "cuda"
    small = ModelConfig(generator="resnet_3blocks", ngf=16, ndf=16)
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        config = TrainConfig(
            model=ModelConfig() if cuda else small,
            data=DataConfig(data=folder, loader=name, load_size=286 if cuda else 72, crop_size=256 if cuda else 64),  # type: ignore[arg-type]
            run=RunConfig(
                out=Path(out),
                device=DEVICE.type,
                amp="bf16" if cuda else "off",
                cuda_graphs="on" if cuda else "off",
                max_steps=STEPS,
                log_every=20,
                sample_every=0,
                eval_every=0,
                checkpoint_every=0,
            ),
        )
        Trainer(config).run()
        records = read_events(Path(out))[1:]
    means = {key: statistics.mean(r[key] for r in records) for key in ("data_wait_percent", "steps_per_second")}
    return {"waited": means["data_wait_percent"] / 100, "speed": means["steps_per_second"]}


def measure_data(seconds: float) -> dict[str, Any]:
    """All loaders in all cases, as long as there is time."""
    deadline, load = time.monotonic() + seconds, os.getloadavg()[1]
    rates: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as root:
        folders = {kind: write_images(Path(root) / kind, suffix) for kind, suffix in SETS.items()}
        names, left_out = usable_loaders(samples_of(folders["JPEG"], MODES[0]))
        waits = measure_waits(names, folders["JPEG"])
        for mode, kind in CASES:
            if time.monotonic() > deadline:
                print(f"out of time: {mode} of {kind} is left out", flush=True)
                continue
            samples = samples_of(folders[kind], mode)
            found = take_turns({name: Turn(name, samples) for name in names}, ROUNDS)
            for name in names:
                row = {"mode": mode, "kind": kind, "loader": name, "times": times(found, name)}
                rates.append(row | {"images_per_second": statistics.median(found[name]), "all": found[name]})
                print(rate_row(rates[-1]), flush=True)
    return {"rates": rates, "waits": waits, "left_out": left_out, "load": load}


def measure_waits(names: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Short trainings that take turns."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for i in range(3):
        for name in [*names[i % len(names) :], *names[: i % len(names)]]:
            runs[name].append(train_for_a_while(name, folder))
    rows = []
    for name, of in runs.items():
        faster = statistics.median(a["speed"] / b["speed"] for a, b in zip(of, runs[BASELINE], strict=True))
        rows.append({"loader": name, "times": faster, "waited": statistics.median(run["waited"] for run in of)})
        rows[-1]["steps_per_second"] = statistics.median(run["speed"] for run in of)
        print(wait_row(rows[-1]), flush=True)
    return rows


def data_page(measured: Measured) -> list[str]:
    """The tables, in Markdown."""
    (result,) = measured["results"]
    step = "256 px, 9 blocks, bf16 in a CUDA graph" if measured["machine"]["gpu"] else "64 px, 3 blocks, 16 channels"
    return [
        f"Images a second, both domains together: {IMAGE_SET}.",
        "",
        f"Medians of {ROUNDS} rounds in which the loaders take turns in one process; the last column: of the rounds'",
        "ratios. The set of cache is decoded before the clock starts. Other processes kept",
        f"{result['load']:.1f} cores busy in the five minutes before (the load average), which makes steps wait, too.",
        "",
        f"| preprocess | files | loader | images/s | x {BASELINE} |",
        "|---|---|---|---|---|",
        *(rate_row(row) for row in result["rates"]),
        "",
        f"The share of its time for which a training step waits for its batch, JPEG, resize_and_crop ({step}):",
        "",
        f"| loader | waits | steps/s | x {BASELINE} |",
        "|---|---|---|---|",
        *(wait_row(row) for row in result["waits"]),
        "",
        *(f"Left out: {name} ({why})\n" for name, why in result["left_out"].items()),
    ]


def rate_row(row: dict[str, Any]) -> str:
    return f"| {row['mode']} | {row['kind']} | {row['loader']} | {row['images_per_second']:.0f} | {row['times']:.2f} |"


def wait_row(row: dict[str, Any]) -> str:
    return f"| {row['loader']} | {row['waited']:.1%} | {row['steps_per_second']:.3g} | {row['times']:.2f} |"


def _finish() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_images(tmp_path_factory.mktemp(kind), suffix) for kind, suffix in SETS.items()}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize(("mode", "kind"), CASES)
def test_images_per_second(benchmark: Any, folders: dict[str, Path], mode: str, kind: str, name: str) -> None:
    samples = samples_of(folders[kind], mode)
    if reason := LOADERS[name].why_not(samples, DEVICE):
        pytest.skip(f"{name}: {reason}")
    benchmark.group = f"{mode}, {kind}"
    with LOADERS[name](samples, device=DEVICE, channels_last=True) as loader:

        def take() -> None:
            for _ in range(WARM_UP):
                next(loader)
            _finish()

        benchmark.pedantic(take, rounds=timed_rounds(10), warmup_rounds=1)
    if benchmark.stats:  # none with --benchmark-disable
        benchmark.extra_info["images_per_second"] = 2 * WARM_UP / benchmark.stats["median"]


@pytest.mark.parametrize("name", LOADERS)
def test_a_step_waits_little(benchmark: Any, folders: dict[str, Path], name: str) -> None:
    if reason := LOADERS[name].why_not(samples_of(folders["JPEG"], MODES[0]), DEVICE):
        pytest.skip(f"{name}: {reason}")
    benchmark.group = f"{STEPS} steps of a training"
    found = benchmark.pedantic(train_for_a_while, args=(name, folders["JPEG"]), rounds=1)
    benchmark.extra_info["waited"] = found["waited"]
