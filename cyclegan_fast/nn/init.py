"""The first weights of a network."""

from __future__ import annotations

import torch
from torch import nn


def init_weights(net: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Draws the weight of every convolution and zeroes its bias; batch norms get N(1, gain) and 0.

    Draws from torch's global generator, in the order of `net.modules()`.
    """
    draw = {
        "normal": lambda w: nn.init.normal_(w, 0.0, gain),
        "xavier": lambda w: nn.init.xavier_normal_(w, gain=gain),
        "kaiming": lambda w: nn.init.kaiming_normal_(w, a=0, mode="fan_in"),
        "orthogonal": lambda w: nn.init.orthogonal_(w, gain=gain),
    }[init_type]
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                draw(module.weight)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(1.0, gain)
                module.bias.zero_()
