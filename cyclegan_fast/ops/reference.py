"""The operators' maths in plain torch: what the kernels are tested against and what takes over without them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def instance_norm_act(
    x: Tensor,  # [N, C, H, W]
    residual: Tensor | None,  # [N, C, H + 2r, W + 2r]
    activation: str,
    negative_slope: float,
    eps: float,
    pad: int,
) -> Tensor:  # [N, C, H + 2 pad, W + 2 pad]
    """See `cyclegan_fast.ops.instance_norm_act`."""
    y = _instance_norm(x, eps)
    if activation == "relu":
        y = F.relu(y)
    elif activation == "leaky_relu":
        y = F.leaky_relu(y, negative_slope)
    if residual is not None:
        y = y + strip_border(residual, (residual.shape[2] - x.shape[2]) // 2)
    return reflect_pad(y, pad)


def _instance_norm(x: Tensor, eps: float) -> Tensor:
    """F.instance_norm without its refusal of 1x1 images, and with gradients that are right in every layout."""
    if x.shape[0] == 0:
        return x * 1.0
    y = torch.instance_norm(x, None, None, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)
    if y.requires_grad and not torch.compiler.is_exporting():
        # ATen's backward on the CPU is wrong for a channels_last gradient; through this view it is contiguous.
        y = y.contiguous().view(-1).view(y.shape)
    return y


def strip_border(x: Tensor, border: int) -> Tensor:
    """[N, C, H + 2 border, W + 2 border] -> [N, C, H, W], a view."""
    return x[:, :, border:-border, border:-border] if border else x


def reflect_pad(x: Tensor, pad: int) -> Tensor:
    """[N, C, H, W] -> [N, C, H + 2 pad, W + 2 pad]."""
    return F.pad(x, (pad, pad, pad, pad), mode="reflect") if pad else x


def cycle_loss(a: Sequence[Tensor], b: Sequence[Tensor], weights: Sequence[float]) -> Tensor:  # [K]
    """weight * mean |a - b| of each pair."""
    wide = _widened([*a, *b])
    terms = zip(wide[: len(a)], wide[len(a) :], weights, strict=True)
    return torch.stack([weight * F.l1_loss(x, y) for x, y, weight in terms])


def lsgan_loss(scores: Sequence[Tensor], targets: Sequence[float], weights: Sequence[float]) -> Tensor:  # [K]
    """weight * mean (score - target)^2 of each tensor of scores."""
    terms = zip(_widened(scores), targets, weights, strict=True)
    return torch.stack([weight * (x - target).square().mean() for x, target, weight in terms])


def hinge_loss(scores: Sequence[Tensor], targets: Sequence[float], weights: Sequence[float]) -> Tensor:  # [K]
    """weight * mean max(0, 1 - target * score) of each tensor of scores."""
    terms = zip(_widened(scores), targets, weights, strict=True)
    return torch.stack([weight * F.relu(1 - target * x).mean() for x, target, weight in terms])


def _widened(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All in their widest type, at least in float32."""
    dtype = functools.reduce(torch.promote_types, (x.dtype for x in tensors), torch.float32)
    return [x.to(dtype) for x in tensors]
