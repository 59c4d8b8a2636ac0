"""Whole training runs: what the loaders copy and where, what a step costs the host, resume, a second GPU."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.engine import load_engine
from cyclegan_fast.models import MODELS
from cyclegan_fast.training.graphed_step import WARM_UP_STEPS
from cyclegan_fast.training.trainer import Trainer
from tests.commands import train_settings
from tests.mock_cuda import runtime

STEPS, LOG_EVERY = 12, 4
FLAGS = (
    "--generator resnet_1blocks --ngf 4 --ndf 4 --discriminator n_layers --n-layers 1 --load-size 36 --crop-size 32 "
    f"--workers 1 --pool-size 3 --sample-every 0 --log-every {LOG_EVERY} --device cuda --cuda-graphs"
).split()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for domain in ("trainA", "trainB"):
        (root / domain).mkdir()
        for i in range(20):
            pixels = rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / domain / f"{i}.png")
    return root


def trainer(images: Path, out: Path, *words: object) -> Trainer:
    return Trainer(train_settings(["--data", str(images), "--out", str(out), *FLAGS, *map(str, words)]))


def by_step(calls: list[runtime.Call]) -> list[list[runtime.Call]]:
    """The calls from one replay to the next one; what came before the first replay is left out."""
    steps: list[list[runtime.Call]] = []
    for call in calls:
        if call.kind == "graph":
            steps.append([])
        if steps:
            steps[-1].append(call)
    return steps


def checked_steps(calls: list[runtime.Call], waits_for_a_log: int) -> list[list[runtime.Call]]:
    """The calls of each step but the last, which is saved; the host waits for the device where a step is logged."""
    steps = by_step(calls)
    assert len(steps) == STEPS - WARM_UP_STEPS
    for number, step in enumerate(steps[:-1], start=WARM_UP_STEPS + 1):
        waits = [call for call in step if call.kind == "sync" and "pageable" not in call.name]
        assert len(waits) == (number % LOG_EVERY == 0) * waits_for_a_log, (number, waits)
    return steps[:-1]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("loader", ["torch", "cache"])  # DALI brings a CUDA runtime of its own
def test_a_run_waits_for_the_gpu_only_where_it_logs(images: Path, tmp_path: Path, loader: str, amp: str) -> None:
    run = trainer(images, tmp_path / "run", "--loader", loader, "--amp", amp, "--max-steps", STEPS)
    with runtime.recorded() as calls:
        assert run.run() == 0
    # Once for all losses; and once for the scale of fp16, which stands for its own check of the losses.
    steps = checked_steps(calls, 2 if amp == "fp16" else 1)
    copies = [call for step in steps for call in step if re.search("memcpy|kernel", call.kind) and "H2D" in call.name]
    assert not [call for call in copies if "pageable" in call.name]
    replays = {call.stream for step in by_step(calls) for call in step if call.kind == "graph"}
    if loader == "torch":
        assert copies and not {call.stream for call in copies} & replays


@pytest.mark.parametrize("model", sorted(MODELS.keys() - {"cyclegan"}))
def test_each_model_trains_in_one_graph_a_step(images: Path, tmp_path: Path, model: str) -> None:
    words = ["--loader", "torch", "--model", model, "--amp", "bf16", "--max-steps", STEPS]
    run = trainer(images, tmp_path, *words)
    with runtime.recorded() as calls:
        assert run.run() == 0
    checked_steps(calls, 1)


def test_a_checkpoint_is_copied_into_pinned_memory_and_no_step_waits_for_it(images: Path, tmp_path: Path) -> None:
    words = ["--loader", "torch", "--max-steps", STEPS, "--checkpoint-every", 5, "--keep-checkpoints", 0]
    with runtime.recorded() as calls:
        assert trainer(images, tmp_path, *words).run() == 0
    assert sorted(path.name[-2:] for path in (tmp_path / "checkpoints").iterdir()) == ["05", "10", "12"]
    steps = dict(enumerate(by_step(calls), WARM_UP_STEPS + 1))
    copies = {
        number: [call.name for call in step if call.kind == "memcpy" and "D2H" in call.name]
        for number, step in steps.items()
    }
    assert all(len(copies[number]) > 100 for number in (5, 10)) and all(len(copies[number]) < 3 for number in (6, 7, 9))
    for number in (5, 10):
        assert sum("pageable" in name for name in copies[number]) == 1, "all losses together, and nothing else"
        waits = [call.name for call in steps[number] if call.kind == "sync" and "pageable" not in call.name]
        waits = [name for name in waits if name != "cudaEventSynchronize"]  # of the thread that writes
        assert len(waits) == 1 + 2, "for the losses, and then, when all is done, for the learning rate of each Adam"
    assert [call for call in steps[5] if call.kind == "alloc" and call.name == "cudaHostAlloc"]
    assert not [call for call in steps[10] if call.kind == "alloc" and call.name == "cudaHostAlloc"]


def test_a_run_is_resumed_inside_a_graph_and_becomes_an_engine(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert trainer(images, out, "--max-steps", 6).run() == 0
    run = trainer(images, out, "--resume", "auto", "--max-steps", STEPS)
    with runtime.recorded() as calls:
        assert run.run() == 0
    assert len(by_step(calls)) == STEPS - 6 - WARM_UP_STEPS

    with load_engine(out, device="cuda") as engine:
        shapes: list[torch.Size] = []

        def translate(seed: int) -> None:
            for i in range(6):
                batch = torch.zeros(1 + (seed + i) % 2, 3, 32, 32 + 8 * (i % 2))
                shapes.append(engine.run(batch).shape)

        threads = [threading.Thread(target=translate, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(shapes) == 24 and {shape[1] for shape in shapes} == {3}


ON_A_SECOND_GPU = """
import sys
import torch
from cyclegan_fast.train import main
from tests.mock_cuda import runtime
with runtime.recorded() as calls:
    try:
        main(sys.argv[1:])
    except SystemExit as ended:
        assert ended.code == 0, ended.code
assert [call.kind for call in calls].count("graph") > 0
assert {call.device for call in calls} == {1}, [call for call in calls if call.device != 1][:9]
assert runtime.active(1) and not runtime.active(0) and runtime.allocated(0) == 0
assert runtime.take_faults() == []
"""


def test_a_run_on_the_second_gpu_leaves_the_first_alone(images: Path, tmp_path: Path) -> None:
    words = ["--data", images, "--out", tmp_path / "run", *FLAGS, "--device", "cuda:1", "--max-steps", 8]
    command = [sys.executable, "-c", ON_A_SECOND_GPU, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
