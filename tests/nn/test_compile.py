"""torch.compile takes the networks whole: no graph breaks, the same images and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cyclegan_fast.config import ModelConfig
from cyclegan_fast.nn import build_networks

MODEL = ModelConfig(generator="resnet_1blocks", discriminator="n_layers", n_layers=2, ngf=16, ndf=16)


def passes(net: nn.Module, call: object, x: torch.Tensor, amp: bool) -> list[torch.Tensor]:
    """The output and the gradients of the image and of all weights, of a loss whose sums over pixels do not cancel."""
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        y = call(leaf)  # type: ignore[operator]
    weights = [p for p in net.parameters() if p.requires_grad]
    return [y.detach(), *torch.autograd.grad((y.float() - 3).square().mean(), [leaf, *weights])]


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["G_A", "D_A"])
def test_networks_compile_without_a_break(name: str, amp: bool) -> None:
    net = build_networks(MODEL)[name].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = (torch.rand(2, 3, 24, 20) * 2 - 1).to(memory_format=torch.channels_last)
    # aot_eager traces forward and backward as any backend does, and needs no compiler.
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    limit = 5e-2 if amp else 1e-4
    for got, expected in zip(passes(net, compiled, x, amp), passes(net, net, x, amp), strict=True):
        assert (got - expected).norm() <= limit * expected.norm()
