"""The training step of the paper's "feature loss + GAN": SimGAN with the L1 distance between deep features of images.

The paper takes the features of VGG-16, relu4_2, trained on ImageNet, whose weights are not part of this package. Here a
fixed network with random weights stands in for it: its features, too, are combinations of edges and colours over a
neighbourhood that grows with depth, but no class of objects has shaped them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclegan_fast.config import TrainConfig
from cyclegan_fast.training.models.simgan import SimGANStep

WIDTHS = (32, 64, 128)  # channels of the features at a half, a quarter and an eighth of the sides
SEED = 0  # of the weights, which are the same in every run


class FeatureGANStep(SimGANStep):
    """The step of SimGAN by features."""

    def __init__(self, networks: nn.ModuleDict, config: TrainConfig) -> None:
        super().__init__(networks, config)
        like = next(networks.parameters())
        self.features = random_features(config.model.channels_A).to(like.device, like.dtype)

    def compared(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the features of a translation and of its input, [N, 128, H / 8, W / 8]."""
        with torch.no_grad():
            of_real = self.features(real)
        return self.features(fake), of_real


class RandomFeatures(nn.Module):
    """Strided 3x3 convolutions and ReLUs whose weights are drawn once and never trained.

    Args:
        channels: Of the images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels, *WIDTHS]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            for before, after in zip(widths, WIDTHS, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 128, H / 8, W / 8]."""
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


def random_features(channels: int) -> RandomFeatures:
    """Returns the frozen network; its weights keep the variance (He et al. 2015), from random numbers of their own."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        network = RandomFeatures(channels)
    for weight in network.parameters():
        fan_in = weight[0].numel()
        weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
    return network.requires_grad_(False)
