"""The layers that every network here is made of: convolutions before a norm, and the norm with all that follows it."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclegan_fast import ops

Norm = Literal["instance", "batch", "none"]
Activation = Literal["none", "relu", "leaky_relu"]
LEAKY_SLOPE = 0.2


class Conv2d(nn.Conv2d):
    """A convolution with a square window, run by `ops.conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, h, w]."""
        return ops.conv2d(x, self.weight, self.bias, stride=self.stride[0], pad=int(self.padding[0]))


class DeadBiasConv2d(nn.Conv2d):
    """A convolution whose bias an instance norm cancels: the bias stays in the checkpoint, no kernel touches it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert self.bias is not None
        self.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, h, w]."""
        return ops.conv2d(x, self.weight, stride=self.stride[0], pad=int(self.padding[0]))


class DeadBiasConvTranspose2d(nn.ConvTranspose2d):
    """The transposed twin of `DeadBiasConv2d`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert self.bias is not None
        self.bias.requires_grad_(False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, h, w]; `output_size` is the base class's and unused."""
        stride, pad, output_pad = self.stride[0], int(self.padding[0]), self.output_padding[0]
        return ops.conv_transpose2d(x, self.weight, stride=stride, pad=pad, output_pad=output_pad)


def conv_before_norm(norm: Norm, *args: Any, **kwargs: Any) -> nn.Conv2d:
    """A convolution that `norm` follows. As in the reference, only instance norm's convolutions carry a bias."""
    if norm == "instance":
        return DeadBiasConv2d(*args, **kwargs)
    return Conv2d(*args, **(kwargs | {"bias": False}))


def conv_transpose_before_norm(norm: Norm, *args: Any, **kwargs: Any) -> nn.ConvTranspose2d:
    """The transposed twin of `conv_before_norm`."""
    if norm == "instance":
        return DeadBiasConvTranspose2d(*args, **kwargs)
    return nn.ConvTranspose2d(*args, **(kwargs | {"bias": False}))


class NormAct(nn.Module):
    """reflect_pad(activation(norm(x)) + residual, pad): all that stands between two convolutions.

    For instance norm this is one fused operator.
    """

    def __init__(self, norm: Norm, channels: int, activation: Activation = "relu", pad: int = 0) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.pad = pad
        self.instance = norm == "instance"
        self.norm = nn.BatchNorm2d(channels) if norm == "batch" else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[N, C, H, W] -> [N, C, H + 2 pad, W + 2 pad].

        Args:
            x: The convolution's output, [N, C, H, W].
            residual: Added after the activation, [N, C, H + 2r, W + 2r]; its border of r pixels is ignored.
        """
        if self.instance:
            return ops.instance_norm_act(
                x, residual, activation=self.activation, negative_slope=LEAKY_SLOPE, pad=self.pad
            )
        if self.norm is not None:
            x = self.norm(x)
        if self.activation == "relu":
            x = F.relu(x)
        elif self.activation == "leaky_relu":
            x = F.leaky_relu(x, LEAKY_SLOPE)
        if residual is not None:
            border = (residual.shape[-1] - x.shape[-1]) // 2
            x = x + residual[..., border : border + x.shape[-2], border : border + x.shape[-1]]
        return ops.reflect_pad(x, self.pad) if self.pad else x

    def extra_repr(self) -> str:
        """Shows the fused parts when printed."""
        norm = "instance" if self.instance else "batch" if self.norm is not None else "none"
        return f"{norm}, activation={self.activation}, pad={self.pad}"


def init_weights(net: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Draws every convolution's weight anew and zeroes its bias; batch norms get N(1, gain) and 0.

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
