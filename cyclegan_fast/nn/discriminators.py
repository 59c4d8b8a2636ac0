"""The discriminators: PatchGANs score overlapping patches (Isola et al. 2017), the 1x1 discriminator single pixels."""

from __future__ import annotations

from torch import Tensor, nn

from cyclegan_fast.nn.conv import Batches, Conv2d, conv_act, conv_before_norm, first_input
from cyclegan_fast.nn.norm import Norm, NormAct


class NLayerDiscriminator(nn.Module):
    """4x4 convolutions, `n_layers` of them strided; with 3 each logit scores a patch of 70x70 pixels.

    No norm follows the first and the last convolution.
    """

    def __init__(self, in_channels: int, ndf: int = 64, n_layers: int = 3, norm: Norm = "instance") -> None:
        super().__init__()
        width = [ndf * min(2**level, 8) for level in range(n_layers + 1)]
        strides = [2] * (n_layers - 1) + [1]
        self.first = Conv2d(in_channels, ndf, 4, stride=2, padding=1)
        self.middle = nn.ModuleList(
            conv_before_norm(norm, width[i], width[i + 1], 4, stride=stride, padding=1)
            for i, stride in enumerate(strides)
        )
        self.norms = nn.ModuleList(NormAct(norm, channels, "leaky_relu") for channels in width[1:])
        self.last = Conv2d(width[-1], 1, 4, stride=1, padding=1)

    def forward(self, x: Batches) -> Tensor | list[Tensor]:
        """[N, in_channels, H, W] -> logits [N, 1, h, w]; 256x256 gives 30x30 with three layers.

        Several batches are scored in one pass.
        """
        h = conv_act(self.first, first_input(x), "leaky_relu")
        for conv, norm in zip(self.middle, self.norms, strict=True):
            h = norm(conv(h))
        return conv_act(self.last, h, split_as=x)


class PixelDiscriminator(nn.Module):
    """1x1 convolutions, which score every pixel by itself."""

    def __init__(self, in_channels: int, ndf: int = 64, norm: Norm = "instance") -> None:
        super().__init__()
        self.first = Conv2d(in_channels, ndf, 1)
        self.middle = conv_before_norm(norm, ndf, ndf * 2, 1)
        self.norm = NormAct(norm, ndf * 2, "leaky_relu")
        self.last = Conv2d(ndf * 2, 1, 1, bias=norm == "instance")

    def forward(self, x: Batches) -> Tensor | list[Tensor]:
        """[N, in_channels, H, W] -> logits [N, 1, H, W]. Several batches are scored in one pass."""
        h = conv_act(self.first, first_input(x), "leaky_relu")
        return conv_act(self.last, self.norm(self.middle(h)), split_as=x)
