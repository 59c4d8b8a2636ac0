"""Two ranks: their reductions over NCCL are in the graph of a step, beside the computation; whole runs, and a loss."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cyclegan_fast.training.base_step import GENERATOR_PARTS
from cyclegan_fast.training.reduction import GradientReduction
from tests.mock_cuda import runtime
from tests.mock_cuda.steps import batch, make_step, warmed_up
from tests.mock_cuda.test_trainer import FLAGS, images  # noqa: F401  # a fixture
from tests.training.ranks import free_port


@pytest.fixture
def _one_of_two_ranks() -> Iterator[None]:
    dist.init_process_group(
        "nccl", store=dist.HashStore(), rank=0, world_size=2, device_id=torch.device("cuda", 0)
    )  # fmt: skip
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_of_two_ranks")
@pytest.mark.parametrize("side_by_side", ["on", "off"])
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_the_reductions_are_in_the_graph_and_beside_the_computation(amp: str, side_by_side: str) -> None:
    step = make_step(amp=amp, side_by_side=side_by_side)
    step.reduction = GradientReduction()
    graphed = warmed_up(step, batch)
    again = batch()
    with runtime.recorded() as calls:
        graphed(*again)
    nodes = [call for call in calls if call.graph and call.kind in runtime.WORK]
    reduced = [(i, node) for i, node in enumerate(nodes) if node.name.startswith("all-reduce of ")]
    sizes = [int(re.sub(r"\D", "", node.name)) for _, node in reduced]
    assert len(sizes) == 3 + GENERATOR_PARTS, "one of each discriminator, those of both generators, one of the losses"
    weights = [4 * sum(w.numel() for w in one.weights) for one in (step.optimizer_G, step.optimizer_D)]
    assert sum(weights) <= sum(sizes) <= 1.2 * sum(weights), "in float32, and what aligns them"
    assert len({node.stream for _, node in reduced}) == 1
    assert reduced[0][1].stream not in {node.stream for node in nodes[: reduced[0][0]]}
    convolutions = [i for i, node in enumerate(nodes) if "convolution" in node.name]
    assert reduced[0][0] < convolutions[-1], "one discriminator's travel while the second cycle computes"
    if side_by_side == "on":
        last = reduced[2 + GENERATOR_PARTS - 2][0]
        assert last < convolutions[-1], "all but the last part of the generators' do while the rest are computed"
    assert not [call for call in calls if call.graph and call.kind == "sync"]

    with runtime.recorded() as calls:
        graphed(*again)
    assert [call.name for call in calls if call.kind == "graph"] == [str(len(nodes))]
    assert not [call for call in calls if call.kind == "sync" or call.name.startswith("all-reduce")]


def both_started(out: Path, images: Path, *words: object) -> list[subprocess.Popen[str]]:  # noqa: F811
    flags = ["--data", images, "--out", out, *FLAGS, "--rank-timeout", 20, "--checkpoint-every", 5, *words]
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "cyclegan_fast.train", *map(str, flags)],
            env=os.environ | both | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def test_two_processes_train_on_a_gpu_each(images: Path, tmp_path: Path) -> None:  # noqa: F811
    processes = both_started(tmp_path / "run", images, "--max-steps", 12)
    try:
        shown = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], shown
    assert "cuda graphs: on" in shown[0][0] and "2 processes train together" in shown[0][0]
    assert sorted(path.name[-2:] for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["05", "10", "12"]


@pytest.mark.parametrize(
    ("fault", "graphs", "why"),
    [
        (signal.SIGKILL, "on", "has ended"),
        (signal.SIGSTOP, "on", r"has not answered for 20 s \(--rank-timeout\)"),
        (signal.SIGSTOP, "off", r"has not answered for 20 s \(--rank-timeout\)"),
    ],
    ids=["dies", "hangs", "hangs without graphs"],
)
def test_one_of_two_processes_is_lost(
    images: Path,  # noqa: F811
    tmp_path: Path,
    fault: signal.Signals,
    graphs: str,
    why: str,
) -> None:
    """The host reports it, though the device may wait for it already; NCCL, which waits longer, says nothing."""
    processes = both_started(tmp_path / "run", images, "--cuda-graphs", graphs, "--max-steps", 100_000)
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "run" / "checkpoints").glob("step_*")):
            assert time.monotonic() < deadline and processes[0].poll() is None
            time.sleep(0.05)
        processes[1].send_signal(fault)
        output, errors = processes[0].communicate(timeout=120)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert "2 processes train together" in output and ("cuda graphs: on" in output) == (graphs == "on")
    assert processes[0].returncode == 2
    assert re.search(rf"^error: process 1 of 2 \(pid \d+ on .+\) {why}, so this one ends.*--resume auto", errors), (
        errors
    )
    assert errors.count("\n") == 1, "NCCL or its watchdog reports as well"
