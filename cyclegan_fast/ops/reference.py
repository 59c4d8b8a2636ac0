"""The operators' maths in plain torch: what the kernels are tested against and what takes over without them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclegan_fast.ops.adam_inputs import AdamGroup, LossScale
from cyclegan_fast.ops.layout import memory_format_of, stat_dtype


def instance_norm_act(x: Tensor, *others: Any) -> Tensor:  # [N, C, H + 2 pad, W + 2 pad]
    """See `cyclegan_fast.ops.instance_norm_act`; `others` are those of `_unpadded`, and pad."""
    *options, pad = others
    return reflect_pad(_unpadded(x, *options), pad).to(x.dtype)  # autocast has torch's norms answer in float32


def instance_norm_act_fork(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """See `cyclegan_fast.ops.instance_norm_act_fork`; `others` are those of `_unpadded`, and pad."""
    *options, pad = others
    y = _unpadded(x, *options)
    return reflect_pad(y, pad).to(x.dtype), y.to(x.dtype)


def _unpadded(
    x: Tensor,  # [N, C, H, W]
    residual: Tensor | None,  # [N, C, H, W]
    weight: Tensor | None,  # [C], in the type of the sums
    bias: Tensor | None,  # [C], in the type of the sums
    statistics: Tensor | None,  # [3, N, C], in the type of the sums
    statistics_count: float | None,
    constant_statistics: bool,
    activation: str,
    negative_slope: float,
    eps: float,
) -> Tensor:  # [N, C, H, W]
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
    return y if residual is None else y + residual


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


def reflect_pad(
    x: Tensor | Sequence[Tensor],  # [N, C, H, W], or several to be concatenated
    pad: int,
    dtype: torch.dtype | None = None,  # None: that of x
) -> Tensor:  # [N, C, H + 2 pad, W + 2 pad]
    """See `cyclegan_fast.ops.reflect_pad`."""
    if not isinstance(x, Tensor):
        x = x[0] if len(x) == 1 else torch.cat(tuple(x))
    y = F.pad(x, (pad, pad, pad, pad), mode="reflect") if pad else x
    return y.to(dtype or x.dtype)


def bias_act(
    x: Tensor,  # [N, C, H, W]
    bias: Tensor | None,  # [C]
    activation: str,
    negative_slope: float,
    dtype: torch.dtype,
    batches: Sequence[int],
) -> list[Tensor]:  # each [n, C, H, W]
    """See `cyclegan_fast.ops.bias_act`."""
    if bias is not None:
        x = x + bias.to(x.dtype)[:, None, None]
    if activation == "tanh":
        x = x.tanh()
    elif activation == "relu":
        x = F.relu(x)
    elif activation == "leaky_relu":
        x = F.leaky_relu(x, negative_slope)
    x = x.to(dtype)
    return [x] if len(batches) == 1 else list(x.split(list(batches)))


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


def image_pool_exchange(
    pool: Tensor,  # [S, C, H, W]
    count: Tensor,  # scalar int64
    drawn: Tensor,  # scalar int64
    fakes: Tensor,  # [N, C, H, W]
    seed: int,
) -> Tensor:  # [N, C, H, W]
    """See `cyclegan_fast.ops.image_pool_exchange`. The host reads nothing, so that a CUDA graph can hold it."""
    swaps, slots = image_pool_draws(seed, drawn + torch.arange(len(fakes), device=drawn.device), len(pool))
    returned = fakes.clone(memory_format=memory_format_of(pool))
    for i in range(len(fakes)):
        fake = fakes[i : i + 1]
        finite, full = fake.isfinite().all(), count >= len(pool)
        swap = full & swaps[i] & finite
        slot = torch.where(full, slots[i], count).reshape(1)
        stored = pool.index_select(0, slot)
        returned[i : i + 1] = torch.where(swap, stored, fake)
        pool.index_copy_(0, slot, torch.where(swap | (~full & finite), fake, stored))
        count.add_(finite).clamp_(max=len(pool))
    drawn.add_(len(fakes))
    return returned


def image_pool_draws(seed: int, numbers: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The decisions of an image pool of `size` slots: as csrc/kernels/random.h, on any device.

    Args:
        seed: of the decisions; any integer, taken modulo 2^64.
        numbers: [N] int64, the decisions' numbers, from 0.
        size: slots, below 2^31.

    Returns:
        Whether a full pool swaps, [N] bool, and with the image of which slot, [N] int64.
    """
    gamma = 0x9E3779B97F4A7C15  # SplitMix64; int64 wraps around as uint64 does
    z = numbers * signed(gamma) + signed(seed + gamma)
    z = (z ^ _shift_right(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * signed(0x94D049BB133111EB)
    z = z ^ _shift_right(z, 31)
    return z < 0, ((z & 0xFFFFFFFF) * size) >> 32


def signed(value: int) -> int:
    """The int64 whose 64 bits are the low ones of `value`."""
    return (value + 2**63) % 2**64 - 2**63


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """The shift of a uint64: zeros come in from above."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


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


def adam_step(
    groups: Sequence[AdamGroup],
    lr: Tensor,  # scalar float64
    betas: tuple[float, float],
    eps: float,
    loss_scale: LossScale | None,
) -> None:
    """See `cyclegan_fast.ops.adam_step`; every weight has a gradient. The host reads nothing."""
    gradients = [_sums_of_gradients(group) for group in groups]
    skips = [~_all_finite([*group.losses, *sums]) for group, sums in zip(groups, gradients, strict=True)]
    inv_scale = loss_scale.scale.double().reciprocal() if loss_scale else torch.ones_like(lr)
    for group, sums, skip in zip(groups, gradients, skips, strict=True):
        group.step.add_(~skip)
        t = group.step.double()
        step_size, correction2 = lr / (1 - betas[0] ** t), (1 - betas[1] ** t).sqrt()
        for w, m, v, working, g in zip(
            group.weights, group.exp_avg, group.exp_avg_sq, group.working, sums, strict=True
        ):
            g = g * inv_scale
            _set_unless(skip, m, betas[0] * m + (1 - betas[0]) * g)
            _set_unless(skip, v, betas[1] * v + (1 - betas[1]) * g * g)
            _set_unless(skip, w, w - step_size * m / (v.sqrt() / correction2 + eps))
            if working is not None:
                _set_unless(skip, working, w)
    if loss_scale:
        _update_loss_scale(loss_scale, torch.stack(skips).any())


def _sums_of_gradients(group: AdamGroup) -> list[Tensor]:
    """Of both cycles, in the type of the weights."""
    weights_and_gradients = zip(group.weights, group.gradients, group.other_gradients, strict=True)
    parts = [[g.to(w.dtype) for g in gradients if g is not None] for w, *gradients in weights_and_gradients]
    return [functools.reduce(torch.add, of_one) for of_one in parts]


def _all_finite(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.isfinite().all() for t in tensors]).all()


def _set_unless(skip: Tensor, tensor: Tensor, value: Tensor) -> None:
    tensor.copy_(torch.where(skip, tensor, value.to(tensor.dtype)))


def _update_loss_scale(loss_scale: LossScale, overflow: Tensor) -> None:
    """Halved by an overflow, doubled after `growth_interval` updates without one, but never to infinity."""
    scale, tracker, interval = loss_scale
    tracker.copy_(torch.where(overflow, 0, tracker + 1))
    grows = (tracker == interval) & (2 * scale).isfinite()
    scale.copy_(torch.where(overflow, scale / 2, torch.where(grows, 2 * scale, scale)))
    tracker.copy_(torch.where(tracker == interval, 0, tracker))
