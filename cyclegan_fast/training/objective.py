"""The losses of CycleGAN (Zhu et al. 2017, section 3), each a function of tensors."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclegan_fast import ops

GanMode = Literal["lsgan", "vanilla", "wgangp", "hinge"]


def critic_loss(mode: GanMode, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """What a critic minimises: real images should score high, fakes low, halved so that it learns at half the pace.

    Args:
        mode: lsgan (squared distance to 1 and 0), vanilla (the paper's equation 1), hinge, or wgangp.
        real_logits: The critic's scores of real images, any shape.
        fake_logits: The critic's scores of translated images.
    """
    if mode == "hinge":
        return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())
    return 0.5 * (_towards(mode, real_logits, real=True) + _towards(mode, fake_logits, real=False))


def generator_loss(mode: GanMode, fake_logits: Tensor) -> Tensor:
    """What a generator minimises: its images should score as high as real ones."""
    if mode == "hinge":
        return -fake_logits.mean()
    return _towards(mode, fake_logits, real=True)


def _towards(mode: GanMode, logits: Tensor, *, real: bool) -> Tensor:
    """Distance of the scores from those of real (or fake) images."""
    if mode == "wgangp":
        return -logits.mean() if real else logits.mean()
    target = torch.full_like(logits, float(real))
    if mode == "lsgan":
        return F.mse_loss(logits, target)
    return F.binary_cross_entropy_with_logits(logits, target)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """mean((|d critic(x) / dx|_2 - 1)^2) at x = alpha real + (1 - alpha) fake (Gulrajani et al. 2017).

    Args:
        critic: The critic whose slope is held near one.
        real: Real images, [N, C, H, W].
        fake: Translated images, detached, [N, C, H, W].
        alpha: Mixing weights in [0, 1], [N, 1, 1, 1].
    """
    mixed = torch.lerp(fake, real, alpha).requires_grad_()
    with ops.use_reference():  # the penalty differentiates a gradient; the fused operators have one derivative
        logits = critic(mixed)
    (slope,) = torch.autograd.grad(logits.sum(), mixed, create_graph=True)
    norm = (slope.flatten(1) + 1e-16).norm(dim=1)
    return (norm - 1).square().mean()
