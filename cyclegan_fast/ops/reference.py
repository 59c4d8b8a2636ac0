"""The operators' maths in plain torch: what the kernels are tested against and what takes over without them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclegan_fast.ops.layout import stat_dtype


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


def l1_mean(a: Tensor, b: Tensor) -> Tensor:
    """Mean of |a - b|, at least in float32."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return F.l1_loss(a.to(dtype), b.to(dtype))


def to_uint8(images: Tensor, tanh: bool) -> Tensor:  # [N, C, H, W] -> [N, H, W, C]
    """See `cyclegan_fast.ops.to_uint8`."""
    values = images.to(stat_dtype(images.dtype))
    levels = ((values.tanh() if tanh else values) + 1.0) * 127.5
    levels = levels.nan_to_num(nan=0.0).round().clamp(0.0, 255.0)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def from_uint8(
    pixels: Tensor,  # [N, H, W, C]
    h: int,
    w: int,
    placement: Tensor | None,  # [N, 3]
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:  # [N, C, h, w]
    """See `cyclegan_fast.ops.from_uint8`."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    values = _crop(pixels, h, w, placement).permute(0, 3, 1, 2).to(stat_dtype(dtype), memory_format=layout)
    return values.div_(127.5).sub_(1.0).to(dtype)


def _crop(pixels: Tensor, h: int, w: int, placement: Tensor | None) -> Tensor:
    """[N, H, W, C] -> [N, h, w, C]."""
    if placement is None:
        return pixels[:, :h, :w]
    n, height, width, _ = pixels.shape
    top, left, mirrored = placement.long().unbind(1)
    i, j = torch.arange(h, device=pixels.device), torch.arange(w, device=pixels.device)
    rows = top.clamp(0, height - h)[:, None] + i  # [N, h]
    columns = left.clamp(0, width - w)[:, None] + torch.where(mirrored[:, None] != 0, w - 1 - j, j)  # [N, w]
    images = torch.arange(n, device=pixels.device)[:, None, None]
    return pixels[images, rows[:, :, None], columns[:, None, :]]
