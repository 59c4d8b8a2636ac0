"""Convolutions run by `cyclegan_fast.ops`, those that a norm follows, and what the first one of a network reads.

All take their weights from `read`, which is where mixed precision on CUDA gives them 16-bit ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cyclegan_fast import ops
from cyclegan_fast.nn.norm import LEAKY_SLOPE, Norm
from cyclegan_fast.nn.working_weights import ReadsWorkingWeights
from cyclegan_fast.ops.bias_act import takes_bias
from cyclegan_fast.ops.layout import autocast_dtype, full_precision

Batches = Tensor | Sequence[Tensor]  # [N, C, H, W], or several of these, which a network passes as one


def first_input(x: Batches, pad: int = 0) -> Tensor:
    """The images of one batch or of several as the first convolution of a network reads them, made in one launch.

    Args:
        x: What the network is given.
        pad: Width of the reflected border in pixels.

    Returns:
        [sum of N, C, H + 2 pad, W + 2 pad], under autocast in its type.
    """
    return ops.reflect_pad(x, pad, dtype=autocast_dtype(x if isinstance(x, Tensor) else x[0]))


class Conv2d(ReadsWorkingWeights, nn.Conv2d):
    """A convolution with a square kernel, run by `ops.conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, h, w]."""
        return self.convolve(x, None if self.bias is None else self.read("bias"))

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As `forward`, with the bias that is given."""
        return ops.conv2d(x, self.read("weight"), bias, stride=self.stride[0], pad=int(self.padding[0]))


class ConvTranspose2d(ReadsWorkingWeights, nn.ConvTranspose2d):
    """A transposed convolution with a square kernel, by torch; its output has the size that the stride gives."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, h, w]; `output_size` is the base class's and unused."""
        return self.convolve(x, None if self.bias is None else self.read("bias"))

    def convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As `forward`, with the bias that is given."""
        return F.conv_transpose2d(
            x, self.read("weight"), bias, self.stride[0], int(self.padding[0]), self.output_padding[0]
        )


def conv_act(conv: Any, x: Tensor, activation: str = "none", *, split_as: Batches | None = None) -> Any:
    """activation(conv(x)), for convolutions that no norm follows: on CUDA one launch beside the convolution's.

    Args:
        conv: A `Conv2d` or `ConvTranspose2d`. On the CPU the convolution itself adds the bias.
        x: [N, in_channels, H, W].
        activation: none, relu, leaky_relu, or tanh, which makes images and so answers in float32 where x is in 16 bits.
        split_as: What the network was given: for several batches the result is as many tensors.

    Returns:
        [N, out_channels, h, w], or a list of [n, out_channels, h, w].
    """
    bias = None if conv.bias is None else conv.read("bias")
    apart = takes_bias(x)
    y = conv.convolve(x, None if apart else bias)
    batches = None if split_as is None or isinstance(split_as, Tensor) else [len(batch) for batch in split_as]
    parts = ops.bias_act(
        y,
        bias if apart else None,
        activation=activation,
        negative_slope=LEAKY_SLOPE,
        dtype=full_precision(y.dtype) if activation == "tanh" else None,
        batches=batches,
    )
    return parts[0] if batches is None else parts


class CancelledBiasConv2d(ReadsWorkingWeights, nn.Conv2d):
    """A convolution before an instance norm, which cancels its bias: checkpoints hold the bias, `forward` skips it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert self.bias is not None
        self.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, h, w]."""
        return ops.conv2d(x, self.read("weight"), stride=self.stride[0], pad=int(self.padding[0]))


class CancelledBiasConvTranspose2d(ReadsWorkingWeights, nn.ConvTranspose2d):
    """The transposed form of `CancelledBiasConv2d`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert self.bias is not None
        self.bias.requires_grad_(False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, h, w]; `output_size` is the base class's and unused."""
        stride, pad, output_pad = self.stride[0], int(self.padding[0]), self.output_padding[0]
        return ops.conv_transpose2d(x, self.read("weight"), stride=stride, pad=pad, output_pad=output_pad)


def conv_before_norm(norm: Norm, *args: Any, **kwargs: Any) -> nn.Conv2d:
    """Makes a convolution that `norm` follows. As in the reference, it has a bias only before an instance norm."""
    if norm == "instance":
        return CancelledBiasConv2d(*args, **kwargs)
    return Conv2d(*args, **(kwargs | {"bias": False}))


def conv_transpose_before_norm(norm: Norm, *args: Any, **kwargs: Any) -> nn.ConvTranspose2d:
    """The transposed form of `conv_before_norm`."""
    if norm == "instance":
        return CancelledBiasConvTranspose2d(*args, **kwargs)
    return ConvTranspose2d(*args, **(kwargs | {"bias": False}))
