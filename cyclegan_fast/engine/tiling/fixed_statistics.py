"""A generator whose instance norms take their statistics from one image and use them for all that follows."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cyclegan_fast import ops
from cyclegan_fast.engine.backends.torch import TorchBackend
from cyclegan_fast.engine.tiling.rows import mirror_to
from cyclegan_fast.nn.norm import LEAKY_SLOPE, NormAct


def run_with_statistics_of(image: Tensor, engine: TorchBackend) -> Callable[[Tensor], Tensor]:
    """The engine's network, sharing its weights, with the statistics of `image`, [C, h, w].

    Returns:
        What takes [N, C, H, W] on any device to float32 [N, C', H, W].
    """
    shared = {id(value): value for value in (*engine.network.parameters(), *engine.network.buffers())}
    network = copy.deepcopy(engine.network, shared)  # a copy of the modules alone
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NormAct) and child.instance:
                setattr(module, name, _FixedNorm(child))

    @torch.inference_mode()
    def run(batch: Tensor) -> Tensor:
        return network(batch.to(engine.device, engine.dtype, memory_format=torch.channels_last)).float()

    run(mirror_to(image, engine.limits.fitting_size(*image.shape[1:]))[None])
    return run


class _FixedNorm(nn.Module):
    """A `NormAct` of instance norm that keeps the statistics of its first input."""

    def __init__(self, norm: NormAct) -> None:
        super().__init__()
        self.norm = norm
        self.statistics: Tensor | None = None  # [3, 1, C]
        self.count = 0  # pixels behind them

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """See `NormAct.forward`."""
        if self.statistics is None:
            self.statistics, self.count = ops.plane_statistics(x), x.shape[2] * x.shape[3]
        return ops.instance_norm_act(
            x,
            residual,
            statistics=self.statistics.expand(-1, x.shape[0], -1).contiguous(),
            statistics_count=self.count,
            constant_statistics=True,
            activation=self.norm.activation,
            negative_slope=LEAKY_SLOPE,
            pad=self.norm.pad,
        )

    def fork(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `NormAct.fork`."""
        y, pad = self(x, residual), self.norm.pad
        return y, y[..., pad : y.shape[-2] - pad, pad : y.shape[-1] - pad]
