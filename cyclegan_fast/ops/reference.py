"""The operators' maths in plain torch: what the kernels are tested against and what takes over without them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def instance_norm_act(
    x: Tensor,  # [N, C, H, W]
    residual: Tensor | None,  # [N, C, H + 2r, W + 2r]
    weight: Tensor | None,  # [C], in the type of the sums
    bias: Tensor | None,  # [C], in the type of the sums
    statistics: Tensor | None,  # [3, N, C], in the type of the sums
    statistics_count: float | None,
    constant_statistics: bool,
    activation: str,
    negative_slope: float,
    eps: float,
    pad: int,
) -> Tensor:  # [N, C, H + 2 pad, W + 2 pad]
    """See `cyclegan_fast.ops.instance_norm_act`."""
    if statistics is None:
        y = _instance_norm(x, weight, bias, eps)
    else:
        mean, var = _moments(statistics, statistics_count or x.shape[2] * x.shape[3])
        if not constant_statistics:
            mean, var = _own_gradients(x.to(statistics.dtype), mean, var)
        y = _affine((x - mean) * (var + eps).rsqrt(), weight, bias).to(x.dtype)
    if activation == "relu":
        y = F.relu(y)
    elif activation == "leaky_relu":
        y = F.leaky_relu(y, negative_slope)
    if residual is not None:
        y = y + strip_border(residual, (residual.shape[2] - x.shape[2]) // 2)
    return reflect_pad(y, pad)


def _instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """F.instance_norm without its refusal of 1x1 images, and with gradients that are right in every layout."""
    if x.shape[0] == 0:
        return _affine(x * 1.0, weight, bias).to(x.dtype)
    weight, bias = (None if t is None else t.to(x.dtype) for t in (weight, bias))
    y = torch.instance_norm(x, weight, bias, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)
    if y.requires_grad and not torch.compiler.is_exporting():
        # ATen's backward on the CPU is wrong for a channels_last gradient; through this view it is contiguous.
        y = y.contiguous().view(-1).view(y.shape)
    return y


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """[N, C, H, W] times weight [C] plus bias [C]."""
    if weight is not None:
        x = x * weight[:, None, None]
    return x if bias is None else x + bias[:, None, None]


def _moments(statistics: Tensor, count: float) -> tuple[Tensor, Tensor]:
    """The mean and the biased variance, [N, C, 1, 1], of statistics [3, N, C]."""
    shift, total, squares = statistics[..., None, None].unbind()
    offset = total / count
    return shift + offset, (squares / count - offset * offset).clamp_min(0)


def _own_gradients(x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """The values of mean and var [N, C, 1, 1], with the gradients to x [N, C, H, W] of its own mean and variance."""
    own_mean = x.mean((2, 3), keepdim=True)
    own_var = (x - own_mean).square().mean((2, 3), keepdim=True)
    return own_mean + (mean - own_mean).detach(), own_var + (var - own_var).detach()


def plane_statistics(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [3, N, C]. See `cyclegan_fast.ops.plane_statistics`."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean((2, 3), keepdim=True)
    squares = (wide - mean).square().sum((2, 3))
    return torch.stack((mean[..., 0, 0], torch.zeros_like(squares), squares))


def strip_border(x: Tensor, border: int) -> Tensor:
    """[N, C, H + 2 border, W + 2 border] -> [N, C, H, W], a view."""
    return x[:, :, border:-border, border:-border] if border else x


def reflect_pad(x: Tensor, pad: int) -> Tensor:
    """[N, C, H, W] -> [N, C, H + 2 pad, W + 2 pad]."""
    return F.pad(x, (pad, pad, pad, pad), mode="reflect") if pad else x


def l1_mean(a: Tensor, b: Tensor) -> Tensor:
    """Mean of |a - b|, at least in float32."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return F.l1_loss(a.to(dtype), b.to(dtype))
