"""The normalisation layer, with everything that follows it up to the next convolution."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cyclegan_fast import ops

Norm = Literal["instance", "batch", "none"]
Activation = Literal["none", "relu", "leaky_relu"]
LEAKY_SLOPE = 0.2  # of the leaky ReLU for negative values


class NormAct(nn.Module):
    """Computes reflect_pad(activation(norm(x)) + residual, pad), all that stands between two convolutions.

    For instance norm this is one fused operator.

    Args:
        norm: Kind of normalisation; instance norm has no weights here.
        channels: Channels of the input.
        activation: What follows the norm.
        pad: Width of the reflected border in pixels.
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
            x: Output of the convolution before, [N, C, H, W].
            residual: Added after the activation, [N, C, H, W].
        """
        if self.instance:
            return ops.instance_norm_act(
                x, residual, activation=self.activation, negative_slope=LEAKY_SLOPE, pad=self.pad
            )
        return ops.reflect_pad(self._unpadded(x, residual), self.pad)

    def fork(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The output of `forward` for the next convolution, and without its border, [N, C, H, W], for a residual sum.

        The gradients of both are added inside the norm's backward kernel.
        """
        if self.instance:
            return ops.instance_norm_act_fork(
                x, residual, activation=self.activation, negative_slope=LEAKY_SLOPE, pad=self.pad
            )
        y = self._unpadded(x, residual)
        return ops.reflect_pad(y, self.pad), y

    def _unpadded(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """Batch norm or none, the activation and the sum."""
        if self.norm is not None:
            x = self.norm(x)
        if self.activation == "relu":
            x = F.relu(x)
        elif self.activation == "leaky_relu":
            x = F.leaky_relu(x, LEAKY_SLOPE)
        return x if residual is None else x + residual

    def extra_repr(self) -> str:
        """Shows the fused parts when printed."""
        norm = "instance" if self.instance else "batch" if self.norm is not None else "none"
        return f"{norm}, activation={self.activation}, pad={self.pad}"
