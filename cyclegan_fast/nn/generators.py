"""The generators: residual blocks (Johnson et al. 2016) and U-Nets (Isola et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cyclegan_fast import ops
from cyclegan_fast.nn.conv import (
    Batches,
    Conv2d,
    ConvTranspose2d,
    conv_act,
    conv_before_norm,
    conv_transpose_before_norm,
    first_input,
)
from cyclegan_fast.nn.norm import Norm, NormAct


class ResnetBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), with no activation after the sum.

    Input and output already carry the reflected border of one pixel that the next convolution needs, and come a second
    time without it, for the sum.
    """

    def __init__(self, channels: int, norm: Norm, dropout: bool, pad: int) -> None:
        super().__init__()
        self.conv1 = conv_before_norm(norm, channels, channels, 3)
        self.norm1 = NormAct(norm, channels, "relu", pad=0 if dropout else 1)
        self.dropout = nn.Dropout(0.5) if dropout else None
        self.conv2 = conv_before_norm(norm, channels, channels, 3)
        self.norm2 = NormAct(norm, channels, "none", pad=pad)

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H + 2, W + 2] and its inside, [N, C, H, W] -> [N, C, H + 2 pad, W + 2 pad] and its inside."""
        h = self.norm1(self.conv1(x))
        if self.dropout is not None:  # drops pixels before they are reflected into the border
            h = ops.reflect_pad(self.dropout(h), 1)
        return self.norm2.fork(self.conv2(h), residual)


class ResnetGenerator(nn.Module):
    """7x7 stem, two strided convolutions, residual blocks, two transposed convolutions, 7x7 head, tanh."""

    size_divisor = 4  # the output has the size of the input where its sides are multiples of this
    min_size = 8  # of a side in pixels: the blocks reflect one pixel at a quarter of it

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ngf: int = 64,
        blocks: int = 9,
        norm: Norm = "instance",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        self.stem = conv_before_norm(norm, in_channels, ngf, 7)
        self.stem_norm = NormAct(norm, ngf)
        self.down = nn.ModuleList(
            [
                conv_before_norm(norm, ngf, ngf * 2, 3, stride=2, padding=1),
                conv_before_norm(norm, ngf * 2, ngf * 4, 3, stride=2, padding=1),
            ]
        )
        self.down_norm = nn.ModuleList([NormAct(norm, ngf * 2), NormAct(norm, ngf * 4, pad=1)])
        self.blocks = nn.ModuleList(
            ResnetBlock(ngf * 4, norm, dropout, pad=0 if last else 1) for last in [False] * (blocks - 1) + [True]
        )
        self.up = nn.ModuleList(
            [
                conv_transpose_before_norm(norm, ngf * 4, ngf * 2, 3, stride=2, padding=1, output_padding=1),
                conv_transpose_before_norm(norm, ngf * 2, ngf, 3, stride=2, padding=1, output_padding=1),
            ]
        )
        self.up_norm = nn.ModuleList([NormAct(norm, ngf * 2), NormAct(norm, ngf, pad=3)])
        self.head = Conv2d(ngf, out_channels, 7)
        self.dropout = dropout
        self.checkpoints_activations = False
        """Whether only the input of each block is stored and the backward pass recomputes its activations."""

    def forward(self, x: Batches) -> Tensor | list[Tensor]:
        """[N, in_channels, H, W] -> [N, out_channels, H, W] in [-1, 1]; H and W multiples of 4.

        Several batches are translated in one pass.
        """
        return self.decode(self.transform(*self.encode(x)), split_as=x)

    def encode(self, x: Batches) -> tuple[Tensor, Tensor]:
        """[N, in_channels, H, W] -> what `transform` takes: [N, 4 ngf, H / 4 + 2, W / 4 + 2] and its inside."""
        h = self.stem_norm(self.stem(first_input(x, pad=3)))
        h = self.down_norm[0](self.down[0](h))
        last_norm: Any = self.down_norm[1]  # nn.ModuleList forgets what it holds
        encoded: tuple[Tensor, Tensor] = last_norm.fork(self.down[1](h))
        return encoded

    def transform(self, h: Tensor, residual: Tensor) -> Tensor:
        """Runs the residual blocks: features with a reflected border of one pixel, and without -> features.

        Args:
            h: [N, 4 ngf, H / 4 + 2, W / 4 + 2].
            residual: Its inside, [N, 4 ngf, H / 4, W / 4], the shape of the result.
        """
        for block in self.blocks:
            if self.checkpoints_activations and torch.is_grad_enabled():
                # Random numbers matter to dropout alone, and their state cannot be read while a graph is captured.
                h, residual = checkpoint(block, h, residual, use_reentrant=False, preserve_rng_state=self.dropout)
            else:
                h, residual = block(h, residual)
        return h

    def decode(self, h: Tensor, split_as: Batches | None = None) -> Tensor | list[Tensor]:
        """[N, 4 ngf, H / 4, W / 4] -> [N, out_channels, H, W] in [-1, 1]; given several batches, as many of these."""
        for conv, norm in zip(self.up, self.up_norm, strict=True):
            h = norm(conv(h))
        images: Tensor | list[Tensor] = conv_act(self.head, h, "tanh", split_as=split_as)
        return images


class UnetGenerator(nn.Module):
    """An encoder of `depth` halvings and a decoder, with a skip connection at every level.

    The reference applies its activations after the concatenation, in place; relu(leaky_relu(x)) = relu(x) and
    relu(dropout(x)) = dropout(relu(x)), so they can be fused into the norms before it with the same result.
    """

    min_size = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        ngf: int = 64,
        norm: Norm = "instance",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        self.size_divisor = 2**depth
        width = [min(ngf * 2**level, ngf * 8) for level in range(depth)]
        last = depth - 1
        # No norm follows the first and the innermost convolution, so their biases count.
        self.down = nn.ModuleList([Conv2d(in_channels, ngf, 4, stride=2, padding=1, bias=norm == "instance")])
        self.down.extend(conv_before_norm(norm, width[i - 1], width[i], 4, stride=2, padding=1) for i in range(1, last))
        self.down.append(Conv2d(width[-2], width[-1], 4, stride=2, padding=1, bias=norm == "instance"))
        self.down_norm = nn.ModuleList(NormAct(norm, width[i], "leaky_relu") for i in range(1, last))
        self.up = nn.ModuleList(
            conv_transpose_before_norm(norm, width[i] * (1 if i == last else 2), width[i - 1], 4, stride=2, padding=1)
            for i in range(last, 0, -1)
        )
        self.up_norm = nn.ModuleList(NormAct(norm, width[i - 1], "relu") for i in range(last, 0, -1))
        dropped = [dropout and i != last and width[i - 1] == ngf * 8 for i in range(last, 0, -1)]
        self.dropout = nn.ModuleList(nn.Dropout(0.5) if drop else nn.Identity() for drop in dropped)
        self.head = ConvTranspose2d(width[0] * 2, out_channels, 4, stride=2, padding=1)

    def forward(self, x: Batches) -> Tensor | list[Tensor]:
        """[N, in_channels, H, W] -> [N, out_channels, H, W] in [-1, 1]; H and W multiples of 2 ** depth.

        Several batches are translated in one pass.
        """
        h = conv_act(self.down[0], first_input(x), "leaky_relu")
        skips = [h]
        for conv, norm in zip(self.down[1:-1], self.down_norm, strict=True):
            h = norm(conv(h))
            skips.append(h)
        h = conv_act(self.down[-1], h, "relu")
        for conv, norm, dropout in zip(self.up, self.up_norm, self.dropout, strict=True):
            h = torch.cat([F.relu(skips.pop()), dropout(norm(conv(h)))], dim=1)
        return conv_act(self.head, h, "tanh", split_as=x)
