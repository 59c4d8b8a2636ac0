"""Activations recomputed in the backward pass: the same bits, fewer bytes stored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cyclegan_fast.config import ModelConfig
from cyclegan_fast.nn import build_generator


def gradients(checkpoints: bool, amp: bool, dropout: bool) -> tuple[list[Tensor], int]:
    """Those of all weights, and the bytes stored for them between forward and backward."""
    torch.manual_seed(0)
    net = build_generator(ModelConfig(generator="resnet_3blocks", ngf=16, dropout=dropout))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.checkpoints_activations = checkpoints
    x = (torch.rand(1, 3, 32, 32) * 2 - 1).to(memory_format=torch.channels_last)
    stored: dict[int, int] = {}

    def store(tensor: Tensor) -> Tensor:
        stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(store, lambda t: t), torch.autocast("cpu", torch.bfloat16, amp):
        loss = net(x).float().square().mean()
    weights = [p for p in net.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss, weights)), sum(stored.values())


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
def test_same_gradients_with_fewer_bytes(amp: bool, dropout: bool) -> None:
    plain, all_bytes = gradients(False, amp, dropout)
    recomputed, few_bytes = gradients(True, amp, dropout)
    assert all(a.equal(b) for a, b in zip(recomputed, plain, strict=True))
    assert few_bytes < 0.8 * all_bytes
