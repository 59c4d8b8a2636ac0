"""A generator at work: every engine beside eager torch and torch.compile, in every precision that it has here.

pytest benchmarks/bench_infer.py --benchmark-only                each engine alone, on a small generator
python -m benchmarks.measure --out docs/results --only infer     the generator of record, all taking turns

Timed is one call of the engine on a batch that lies where it is wanted: on the GPU, or in the host's memory.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.harness import DEVICE, Case, interleave, ratio, time_once, timed_rounds
from benchmarks.results import Measured
from cyclegan_fast import ops
from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.checkpoint.reference_format import to_reference
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.data.scenes import draw_scene, render_photo
from cyclegan_fast.engine import Engine, Shapes, build_engine, load_engine, load_generator
from cyclegan_fast.engine.export.parity import measure_parity
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_networks
from tests.plain.networks import PlainResnetGenerator

EAGER = "eager fp32 NCHW"
GRAPH = ", CUDA graph" if DEVICE.type == "cuda" else ""
# (batch, side in pixels)
SIZES = (
    [(batch, side) for side in (256, 512, 1024) for batch in (1, 8, 32)]
    if DEVICE.type == "cuda"
    else [(1, 256), (8, 256), (1, 512), (1, 1024)]
)
ROUNDS = 100 if DEVICE.type == "cuda" else 20
CALIBRATION = 8  # images for int8
_PACKAGES = {
    "ONNX Runtime": ("onnxscript", "onnxruntime"),
    "OpenVINO": ("onnxscript", "onnxruntime", "openvino"),
    "TensorRT": ("onnxscript", "onnxruntime", "tensorrt"),
}
_MIN_CALLS_FOR_P99 = 20  # of fewer it would be the largest

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Subject:
    """A generator whose files are built once into a folder."""

    folder: Path
    blocks: int = 9
    channels: int = 64

    @functools.cached_property
    def run(self) -> Path:
        """A run folder; the weights are as at a training's start."""
        torch.manual_seed(0)
        model = ModelConfig(generator=f"resnet_{self.blocks}blocks", ngf=self.channels, ndf=self.channels)
        networks, config = build_networks(model), TrainConfig(model=model)
        save_checkpoint(self.folder / "checkpoints", 1, networks=networks, config=config, progress={"step": 1})
        return self.folder

    @functools.cached_property
    def images(self) -> Path:
        """Scenes, for the calibration of int8 and the comparison with torch."""
        folder = self.folder / "images"
        folder.mkdir()
        for i in range(CALIBRATION):
            Image.fromarray(np.asarray(render_photo(draw_scene(i, i), 256))).save(folder / f"{i}.png")
        return folder

    def file(self, name: str, precision: str, **options: Any) -> Path:
        path = self.folder / name
        if not path.exists():
            build_engine(self.run, path, precision=precision, images=self.images, **options)  # type: ignore[arg-type]
        return path

    def eager(self) -> nn.Module:
        """The reference's implementation: plain modules."""
        network = PlainResnetGenerator(3, 3, ngf=self.channels, n_blocks=self.blocks)
        network.load_state_dict(to_reference(load_generator(self.run).network))
        return network.to(DEVICE).eval()


def build_cases(subject: Subject) -> dict[str, Callable[[], Run]]:
    """Name -> a function that sets the case up. Raises UserError where something is missing."""
    cuda = DEVICE.type == "cuda"
    max_shape = (32, 1024, 1024)

    def eager(dtype: torch.dtype) -> Run:
        network = subject.eager().to(dtype)
        if dtype != torch.float32:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return torch.inference_mode()(lambda batch: network(batch.to(dtype)).float())

    def compiled(dtype: torch.dtype) -> Run:
        network = subject.eager().to(dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network = torch.compile(network, mode="max-autotune" if cuda else "default", dynamic=False)
        layout = {"memory_format": torch.channels_last}
        return torch.inference_mode()(lambda batch: network(batch.to(dtype, **layout)).float())

    def loaded(path: Callable[[], Path], **options: Any) -> Callable[[], Run]:
        def load() -> Run:
            engine: Engine = load_engine(path(), device=DEVICE.type, **options)
            return engine.run

        return load

    def onnx(precision: str) -> Callable[[], Path]:
        return lambda: subject.file(f"{precision}.onnx", precision)

    def pt2(precision: str) -> Callable[[], Path]:
        shapes = Shapes((1, 64, 64), (1, 256, 256), max_shape)
        return lambda: subject.file(f"{precision}.pt2", precision, shapes=shapes, device=DEVICE.type)

    def plan(precision: str) -> Callable[[], Path]:
        shapes = Shapes((1, 64, 64), (1, 256, 256), (16, 1024, 1024))  # of 32, TensorRT cannot count the values
        return lambda: subject.file(f"{precision}.engine", precision, shapes=shapes)

    # A CPU without bfloat16 lets torch convert at every call: such a peer would make us look good.
    has_bf16 = cuda or not ops.bfloat16_is_slow(DEVICE, channels_last=False)
    cases: dict[str, Callable[[], Run]] = {
        EAGER: lambda: eager(torch.float32),
        "torch.compile fp32": lambda: compiled(torch.float32),
        f"torch fp32, ours{GRAPH}": loaded(lambda: subject.run, precision="fp32"),
        "AOTInductor fp32": loaded(pt2("fp32")),
        "ONNX Runtime fp32": loaded(onnx("fp32"), backend="onnxruntime"),
    }
    if has_bf16:
        cases |= {
            "eager bf16 channels_last": lambda: eager(torch.bfloat16),
            "torch.compile bf16": lambda: compiled(torch.bfloat16),
            f"torch bf16, ours{GRAPH}": loaded(lambda: subject.run, precision="bf16"),
            "AOTInductor bf16": loaded(pt2("bf16")),
        }
    if cuda:
        cases[f"torch fp16, ours{GRAPH}"] = loaded(lambda: subject.run, precision="fp16")
        cases["ONNX Runtime fp16"] = loaded(onnx("fp16"), backend="onnxruntime")
        cases |= {f"TensorRT {precision}": loaded(plan(precision)) for precision in ("fp32", "fp16", "bf16", "int8")}
    else:
        cases["ONNX Runtime int8"] = loaded(onnx("int8"), backend="onnxruntime")
        cases["OpenVINO fp32"] = loaded(onnx("fp32"), backend="openvino")
        if has_bf16:
            cases["OpenVINO bf16"] = loaded(onnx("fp32"), backend="openvino", precision="bf16")
        cases["OpenVINO int8"] = loaded(onnx("int8"), backend="openvino")
    return cases


def measure_infer(seconds: float, report: Callable[[list[dict[str, Any]]], None]) -> None:
    """Measures every engine at every size, as long as there is time; `report` gets what there is after each size."""
    with tempfile.TemporaryDirectory() as folder:
        _measure(Subject(Path(folder)), time.monotonic() + seconds, report)


def _measure(subject: Subject, deadline: float, report: Callable[[list[dict[str, Any]]], None]) -> None:
    runs, left_out = {}, {}
    setting_up_ends = time.monotonic() + (deadline - time.monotonic()) / 2  # TensorRT builds for minutes
    for name, setup in build_cases(subject).items():
        try:
            if runs and time.monotonic() > setting_up_ends:
                raise UserError("setting it up would leave no time for measuring")
            runs[name] = setup()
        except (UserError, RuntimeError) as error:
            left_out[name] = " ".join(str(error).split())[:200]
            print(f"left out: {name}: {left_out[name]}", flush=True)
    found: list[dict[str, Any]] = []
    for i, (batch, side) in enumerate(SIZES):
        row = measure_size(runs, batch, side, (deadline - time.monotonic()) / (len(SIZES) - i))
        found.append(row | {"left_out": left_out | row["left_out"]})
        print("\n".join(size_page(found[-1])), flush=True)
        report(found)


def measure_size(runs: dict[str, Run], batch: int, side: int, seconds: float) -> dict[str, Any]:
    images = [(torch.rand(batch, 3, side, side, device=DEVICE) * 2 - 1) for _ in range(4)]  # fresh ones take turns
    photo = torch.from_numpy(render_photo(draw_scene(9, 9), side)).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    cases: dict[str, Case] = {}
    apart: dict[str, str] = {}
    left_out: dict[str, str] = {}
    turns = dict.fromkeys(runs, 0)

    def one(name: str) -> None:
        turns[name] += 1
        runs[name](images[turns[name] % len(images)])

    some = photo.to(DEVICE).expand(batch, -1, -1, -1).contiguous()
    expected = runs[EAGER](some)
    for name, run in runs.items():
        try:
            found = measure_parity(run, lambda _: expected, [some])
        except (UserError, RuntimeError) as error:  # such as out of memory
            left_out[name] = " ".join(str(error).split())[:200]
            continue
        apart[name] = "" if name == EAGER else f"{found.psnr:.1f}"
        cases[name] = functools.partial(one, name)
    a_round = sum(time_once(case, DEVICE) for case in cases.values()) / 1e3
    rounds = max(3, min(ROUNDS, int(seconds / max(a_round, 1e-6)) - 1))
    times = interleave(cases, rounds=rounds, device=DEVICE, warm_up=1)
    return {
        "batch": batch,
        "side": side,
        "rounds": rounds,
        "p50_ms": {name: statistics.median(values) for name, values in times.items()},
        "p99_ms": {name: float(np.percentile(values, 99)) for name, values in times.items()},
        "times_faster": {name: ratio(times, EAGER, name) for name in times},
        "psnr_db": apart,
        "left_out": left_out,
    }


def infer_page(measured: Measured) -> list[str]:
    """The tables, one for each size, in Markdown."""
    machine = measured["machine"]
    versions = {"torch": machine["torch"]} | machine["packages"]
    shown = [name for name in ("torch", "onnxruntime", "openvino", "tensorrt") if name in versions]
    kernels = f"; our kernels for {measured['extension']['isa']}" if measured["extension"] else ""
    lines = [", ".join(f"{name} {versions[name]}" for name in shown) + f"{kernels}.", ""]
    return lines + [line for row in measured["results"] for line in size_page(row)]


def size_page(row: dict[str, Any]) -> list[str]:
    """One table: a line for each engine at one size."""
    lines = [
        f"#### Batch {row['batch']}, {row['side']}x{row['side']} px",
        "",
        f"{row['rounds']} calls of each, taking turns in one process.",
        "",
        "| engine | p50 ms | p99 ms | images/s | times faster | PSNR from eager, dB |",
        "|---|---|---|---|---|---|",
    ]
    for name, p50 in row["p50_ms"].items():
        p99 = f"{row['p99_ms'][name]:.2f}" if row["rounds"] >= _MIN_CALLS_FOR_P99 else ""
        cells = [name, f"{p50:.2f}", p99, f"{1e3 * row['batch'] / p50:.2f}"]
        lines.append("| " + " | ".join([*cells, f"{row['times_faster'][name]:.2f}", row["psnr_db"][name]]) + " |")
    return [*lines, "", *(f"Left out: {name} ({why})" for name, why in row["left_out"].items()), ""]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(tmp_path_factory.mktemp("subject"), blocks=3, channels=16)


@pytest.mark.parametrize("name", build_cases(Subject(Path())))
def test_infer(benchmark: Any, subject: Subject, name: str) -> None:
    for package in _PACKAGES.get(name.rsplit(" ", 1)[0], ()):
        pytest.importorskip(package)
    run = build_cases(subject)[name]()
    batch = torch.rand(1, 3, 128, 128, device=DEVICE) * 2 - 1

    def one() -> None:
        run(batch)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(one, rounds=timed_rounds(20), warmup_rounds=timed_rounds(3))
