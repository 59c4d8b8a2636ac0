"""A residual generator on an image of any size, strip by strip, with the result of the whole image at once.

Instance norm needs the mean and the variance of a layer over the whole image, and they depend on the norms before it.
So the image is passed through once for each norm: all strips pass the convolution before it, their statistics are
merged (Chan et al. 1979), and only then the next layer begins. The activations between two norms are either spilled,
that is cached in memory or in a file, or recomputed from what was spilled before: the wide layers at full and half size
are recomputed (an eighth more arithmetic), those of the residual blocks at a quarter are spilled, three at a time.

All `Activations` are lazy: `rows` computes some rows from as many rows of the layer before as the kernel size reaches.
So what a strip needs of its neighbours follows from the network itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.engine.tiling.activations import Activations, Conv, ConvTranspose, Input, Strips
from cyclegan_fast.engine.tiling.rows import Rows
from cyclegan_fast.engine.tiling.spill import Spill
from cyclegan_fast.monitoring.progress import Progress
from cyclegan_fast.nn.generators import ResnetGenerator

_MIN_ROWS = 16  # of a strip at full size
_BUFFERS = 3  # of activations of the residual blocks: x and both convolutions


@torch.inference_mode()  # also of a generator function: it is left whenever a band is given out
def translate_exactly(network: ResnetGenerator, image: Rows, *, pixels: int, progress: Progress) -> Iterator[Tensor]:
    """Translates an image as in one piece.

    Args:
        network: A residual generator with instance norm, in evaluation; on the device and in the type to compute in.
        image: Sides are multiples of 4, from 8 on.
        pixels: Of a strip, about; the memory needed grows with it.
        progress: Called with the strips that are done, and their total.

    Yields:
        float32 [C', h, W] in [-1, 1], on the network's device: bands of the result from its top to its bottom.

    Raises:
        UserError: Neither memory nor disk can hold the spilled activations; the message names the size.
    """
    parameter = next(network.parameters())
    h: Activations = Input(image, parameter.device, parameter.dtype)
    rows = max(_MIN_ROWS, pixels // h.width // network.size_divisor * network.size_divisor)  # of a strip
    passes = 7 + 3 * len(network.blocks)  # of all strips
    strips = Strips(rows, passes * -(-h.height // rows), progress)
    # Before anything is computed, so that a full disk is reported at once.
    spill = Spill(_BUFFERS, (h.height // 4, h.width // 4, 4 * network.stem.out_channels), parameter)

    h = Conv(h, network.stem, "reflect", 3).normed(network.stem_norm, strips)
    last = len(network.down) - 1
    for i, (conv, norm) in enumerate(zip(network.down, network.down_norm, strict=True)):
        h = Conv(h, conv, "zeros", 1)
        h = (spill.cache(h, strips) if i == last else h).normed(norm, strips)
    x = spill.cache(h, strips)
    h.close()
    block: Any
    for block in network.blocks:
        first = spill.cache(Conv(x, block.conv1, "reflect", 1), strips)
        second = spill.cache(Conv(first.normed(block.norm1, strips), block.conv2, "reflect", 1), strips)
        first.close()
        x.add_(second.normed(block.norm2, strips), strips)
        second.close()
    h = x
    for conv, norm in zip(network.up, network.up_norm, strict=True):
        h = ConvTranspose(h, conv).normed(norm, strips)
    head = Conv(h, network.head, "reflect", 3)
    for low, high in strips.of(head):
        yield torch.tanh(head.rows(low, high))[0].float()
    x.close()
