"""The step of one of two ranks in a graph: its reductions over NCCL are in the capture, and beside the computation."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from cyclegan_fast.training.reduction import GradientReduction
from tests.mock_cuda import runtime
from tests.mock_cuda.steps import batch, make_step, warmed_up


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
    step.reduction = GradientReduction(60.0)
    graphed = warmed_up(step, batch)
    again = batch()
    with runtime.recorded() as calls:
        graphed(*again)
    nodes = [call for call in calls if call.graph and call.kind in runtime.WORK]
    reduced = [(i, node) for i, node in enumerate(nodes) if node.name.startswith("all-reduce of ")]
    sizes = [int(re.sub(r"\D", "", node.name)) for _, node in reduced]
    assert len(sizes) == 4, "one of each discriminator, one of both generators, one of the losses"
    weights = [4 * sum(w.numel() for w in one.weights) for one in (step.optimizer_G, step.optimizer_D)]
    assert sum(weights) <= sum(sizes) <= 1.2 * sum(weights), "in float32, and what aligns them"
    assert len({node.stream for _, node in reduced}) == 1
    assert reduced[0][1].stream not in {node.stream for node in nodes[: reduced[0][0]]}
    convolutions = [i for i, node in enumerate(nodes) if "convolution" in node.name]
    assert reduced[0][0] < convolutions[-1], "one discriminator's travel while the second cycle computes"
    assert not [call for call in calls if call.graph and call.kind == "sync"]

    with runtime.recorded() as calls:
        graphed(*again)
    assert [call.name for call in calls if call.kind == "graph"] == [str(len(nodes))]
    assert not [call for call in calls if call.kind == "sync" or call.name.startswith("all-reduce")]
