"""The losses of CycleGAN (Zhu et al. 2017, section 3), each a function of tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclegan_fast import ops
from cyclegan_fast.ops.layout import full_precision

GanMode = Literal["lsgan", "vanilla", "wgangp", "hinge"]


def l1_losses(terms: Iterable[tuple[float, Tensor, Tensor]]) -> Tensor:
    """Returns [K], weight * mean |image - target| of each of K (weight, image, target), images [N, C, H, W]."""
    weights, images, targets = zip(*terms, strict=True)
    return ops.cycle_loss(list(zip(images, targets, strict=True)), weights)


def discriminator_loss(mode: GanMode, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Returns what a discriminator minimises: real images score high, fakes low; halved, which slows it down.

    Args:
        mode: lsgan (squared distance to 1 and 0), vanilla (the paper's equation 1), hinge, or wgangp.
        real_logits: Its scores of real images, any shape; those in 16 bits are summed in float32.
        fake_logits: Its scores of translated images.
    """
    if mode == "lsgan":
        return ops.lsgan_loss([real_logits, fake_logits], targets=[1, 0], weights=[0.5, 0.5]).sum()
    if mode == "hinge":
        return ops.hinge_loss([real_logits, fake_logits], targets=[1, -1], weights=[0.5, 0.5]).sum()
    return 0.5 * (_towards(mode, real_logits, real=True) + _towards(mode, fake_logits, real=False))


def generator_loss(mode: GanMode, weight: float, fake_logits: Tensor, *, real: bool = True) -> Tensor:
    """Returns what a generator minimises: its images should score as high as real ones.

    Args:
        mode: As in `discriminator_loss`.
        weight: What the loss is multiplied by.
        fake_logits: The discriminator's scores of its images, any shape.
        real: False of a generator whose images are to score as low as the other ones do.
    """
    if mode == "lsgan":
        return ops.lsgan_loss([fake_logits], targets=[float(real)], weights=[weight]).squeeze(0)
    return weight * _towards(mode, fake_logits, real=real)


def _towards(mode: GanMode, logits: Tensor, *, real: bool) -> Tensor:
    """Returns the distance of scores from those of real (or fake) images, by cross-entropy or as they are."""
    logits = logits.to(full_precision(logits.dtype))
    if mode == "vanilla":
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
    return -logits.mean() if real else logits.mean()


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Returns mean((|d discriminator(x) / dx|_2 - 1)^2) at x = alpha real + (1 - alpha) fake (Gulrajani et al. 2017).

    Args:
        discriminator: The network whose gradient norm is held near one.
        real: Real images, [N, C, H, W].
        fake: Translated images, detached, [N, C, H, W].
        alpha: Mixing weights in [0, 1], [N, 1, 1, 1].
    """
    mixed = torch.lerp(fake, real, alpha).requires_grad_()
    with ops.use_reference():  # the penalty differentiates a gradient; the fused operators have one derivative
        logits = discriminator(mixed)
    (gradient,) = torch.autograd.grad(logits.sum(), mixed, create_graph=True)
    norm = (gradient.flatten(1) + 1e-16).norm(dim=1)
    return (norm - 1).square().mean()
