"""A step with narrow convolutions in a graph: their kernels are launched as benchmarks/launches.py counts them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from cyclegan_fast import ops
from tests.mock_cuda import runtime
from tests.mock_cuda.steps import batch, make_step, warmed_up
from tests.mock_cuda.test_capture import launches_of


@pytest.fixture(autouse=True)
def narrow() -> Iterator[None]:
    with ops.narrow_convolutions(True):
        yield


def test_launches_are_those_of_the_page() -> None:
    model = {"generator": "resnet_9blocks", "discriminator": "basic", "ngf": 64, "ndf": 64}
    graphed = warmed_up(make_step(model=model, amp="bf16", side_by_side="on"), lambda: batch(height=256, width=256))
    with runtime.recorded() as calls:
        graphed(*batch(height=256, width=256))
    nodes = [call for call in calls if call.graph and call.kind in runtime.WORK]
    counted = launches_of("step, bf16, narrow convolutions")
    assert 0 <= len(nodes) - counted["together"] <= 12
    products = [node for node in nodes if re.match(r"(input |weight |)(gradient of the )?convolution ", node.name)]
    ours = [node for node in nodes if "narrow_conv" in node.name]
    assert len(products) + len(ours) == counted["convolution"]
    merges = [node for node in ours if "merge" in node.name]  # all that they launch beyond torch's
    assert len(merges) == counted["convolution"] - launches_of("step, bf16")["convolution"] > 0


@pytest.mark.parametrize("gan_mode", ["lsgan", "wgangp"])
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_every_pass_is_captured(amp: str, gan_mode: str) -> None:
    """With wgangp the discriminators' first layer is differentiated twice."""
    step = make_step(model={"ngf": 16, "ndf": 16}, objective={"gan_mode": gan_mode}, amp=amp, side_by_side="on")
    graphed = warmed_up(step, batch)
    with runtime.recorded() as calls:
        graphed(*batch())
    names = " ".join(call.name for call in calls if call.graph and call.kind == "kernel")
    assert all(f"narrow_conv_{kernel}_kernel" in names for kernel in ("to_wide", "to_narrow", "weight_grad", "merge"))
    assert not [call for call in calls if call.graph and call.kind == "sync"]
