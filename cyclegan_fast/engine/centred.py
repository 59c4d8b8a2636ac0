"""Generators for other runtimes, in a form that keeps a constant image constant."""

from __future__ import annotations

from torch import Tensor, nn

from cyclegan_fast.nn.generators import ResnetGenerator


class Centred(nn.Module):
    """Moves the middle of each channel's range to zero before a network whose first norm cancels such a shift.

    An instance norm divides a plane by its deviation, or by the root of its epsilon where it has none: the rounding
    errors of a plane that should be constant are multiplied by 316, once at each norm. Runtimes round there, so that a
    black frame became noise. The middle of a constant image is its value, exactly: what follows is zero at every
    layer, in every runtime and precision. Of another image the range does not grow, and the translation is the same.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', H, W]."""
        middle = (x.amax((2, 3), keepdim=True) + x.amin((2, 3), keepdim=True)) * 0.5  # [N, C, 1, 1]
        return self.network(x - middle)


def centred(compute: nn.Module, generator: nn.Module) -> nn.Module:
    """`compute`, which runs `generator` in some precision, behind `Centred` where an instance norm follows the stem."""
    if isinstance(generator, ResnetGenerator) and generator.stem_norm.instance:
        return Centred(compute)
    return compute
