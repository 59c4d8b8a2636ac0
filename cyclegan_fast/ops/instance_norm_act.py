"""instance_norm_act: y = reflect_pad(act(xhat * weight + bias) + residual, pad), one op forward and one backward."""

from __future__ import annotations

from torch import Tensor

from cyclegan_fast.errors import UserError, did_you_mean
from cyclegan_fast.ops import reference
from cyclegan_fast.ops.extension import runs_reference
from cyclegan_fast.ops.instance_norm_autograd import Inputs, call, call_fork
from cyclegan_fast.ops.layout import check_dense, stat_dtype
from cyclegan_fast.ops.reflect_pad import check_pad

ACTIVATIONS = {"none": 0, "relu": 1, "leaky_relu": 2}  # the values of Activation in csrc/kernels/types.h


def instance_norm_act(
    x: Tensor,
    residual: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    statistics: Tensor | None = None,
    statistics_count: float | None = None,
    constant_statistics: bool = False,
    activation: str = "none",
    negative_slope: float = 0.2,
    eps: float = 1e-5,
    pad: int = 0,
) -> Tensor:
    """Normalises each plane, then affine, activation, residual and reflection pad, in one pass over the output.

    y = reflect_pad(act((x - mean) / sqrt(var + eps) * weight + bias) + residual, pad), with the mean and the biased
    variance of each image and channel over H x W. Only x and the statistics are saved for the backward pass.

    Args:
        x: [N, C, H, W] in float32, bfloat16, float16 or float64, contiguous or channels_last. Sums run in float32
            (float64 for float64).
        residual: [N, C, H, W], added after the activation; the inside of a padded tensor is read where it is. Or
            [N, C, H + 2r, W + 2r], whose border of r pixels is ignored and gets a gradient of zeros.
        weight: [C] in any floating type, 1 where absent; its gradient has its own type.
        bias: [C] in any floating type, 0 where absent; its gradient has its own type.
        statistics: [3, N, C] in the type of the sums: a shift, the sum of x - shift and the sum of (x - shift)^2;
            spares the pass that computes them from x. It never gets a gradient: `constant_statistics` says what x gets.
        statistics_count: pixels behind each sum, by default H * W; another number only with `constant_statistics`.
        constant_statistics: False: the statistics are those of this very x (computed by a convolution's epilogue, say),
            and the gradient is that of instance norm, which passes through them. True: they are constants (those of a
            whole image of which x is a tile, say), and grad_x is weight / sqrt(var + eps) times the gradient before
            the norm.
        activation: "none", "relu" or "leaky_relu".
        negative_slope: slope of leaky_relu below zero.
        eps: added to the variance.
        pad: reflected pixels on each side of the output, 0 <= pad < min(H, W).

    Returns:
        [N, C, H + 2 pad, W + 2 pad] in the type and layout of x.

    Raises:
        UserError: if a shape, a type or an option breaks a rule above.
    """
    tensors = _checked(x, residual, weight, bias, activation, pad)
    given = (statistics, statistics_count, constant_statistics)
    if statistics is not None or statistics_count is not None or constant_statistics:
        _check_statistics(x, *given)
    if runs_reference(x):
        return reference.instance_norm_act(*tensors, *given, activation, negative_slope, eps, pad)
    check_dense("instance_norm_act", "x", x)
    return call(Inputs(*tensors, *given, ACTIVATIONS[activation], negative_slope, eps, pad))


def instance_norm_act_fork(
    x: Tensor,
    residual: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str = "none",
    negative_slope: float = 0.2,
    eps: float = 1e-5,
    pad: int = 0,
) -> tuple[Tensor, Tensor]:
    """`instance_norm_act` before a residual block: its output for the convolution, and without the border for the sum.

    Both lie in one memory. The backward kernel adds their gradients as it reads them, in the type of the sums; autograd
    would launch a sum of its own and round it.

    Args:
        x: this and all others as in `instance_norm_act`.
        residual: as there.
        weight: as there.
        bias: as there.
        activation: as there.
        negative_slope: as there.
        eps: as there.
        pad: as there.

    Returns:
        y, [N, C, H + 2 pad, W + 2 pad], and its inside, [N, C, H, W], a view that the next block's `residual` takes.

    Raises:
        UserError: as in `instance_norm_act`.
    """
    tensors = _checked(x, residual, weight, bias, activation, pad)
    own = (None, None, False)  # statistics
    if runs_reference(x):
        return reference.instance_norm_act_fork(*tensors, *own, activation, negative_slope, eps, pad)
    check_dense("instance_norm_act_fork", "x", x)
    return call_fork(Inputs(*tensors, *own, ACTIVATIONS[activation], negative_slope, eps, pad))


def _checked(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None, activation: str, pad: int
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The tensors as the kernels take them: the residual without its border, parameters in the type of the sums."""
    _check(x, residual, activation, pad)
    if residual is not None:
        residual = reference.strip_border(residual, (residual.shape[2] - x.shape[2]) // 2)
    if weight is not None:
        weight = _as_sums("weight", weight, x)
    if bias is not None:
        bias = _as_sums("bias", bias, x)
    return x, residual, weight, bias


def _check(x: Tensor, residual: Tensor | None, activation: str, pad: int) -> None:
    if activation not in ACTIVATIONS:
        hint = did_you_mean(activation, ACTIVATIONS)
        raise UserError(
            f"instance_norm_act: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}{hint}"
        )
    check_pad("instance_norm_act", x, pad)
    if residual is None:
        return
    extra_h, extra_w = residual.shape[-2] - x.shape[2], residual.shape[-1] - x.shape[3]
    same = residual.dim() == 4 and residual.shape[:2] == x.shape[:2]
    if not same or extra_h != extra_w or extra_h < 0 or extra_h % 2:
        raise UserError(
            f"instance_norm_act: residual must have shape {list(x.shape)}, or that with an equal border on each side, "
            f"got {list(residual.shape)}"
        )
    if residual.dtype != x.dtype or residual.device != x.device:
        raise UserError(
            f"instance_norm_act: residual must be {x.dtype} on {x.device} as x is, "
            f"got {residual.dtype} on {residual.device}"
        )


def _as_sums(name: str, parameter: Tensor, x: Tensor) -> Tensor:
    """The parameter [C] in the type of the sums; autograd casts its gradient back."""
    channels = x.shape[1]
    if parameter.shape != (channels,) or not parameter.is_floating_point() or parameter.device != x.device:
        raise UserError(
            f"instance_norm_act: {name} must be [{channels}] floating-point numbers on {x.device}, "
            f"got {parameter.dtype} {list(parameter.shape)} on {parameter.device}"
        )
    return parameter.to(stat_dtype(x.dtype))


def _check_statistics(x: Tensor, statistics: Tensor | None, count: float | None, constant: bool) -> None:
    if statistics is None:
        raise UserError("instance_norm_act: statistics_count and constant_statistics need statistics")
    n, c, h, w = x.shape
    wanted = (stat_dtype(x.dtype), (3, n, c), x.device)
    if (statistics.dtype, statistics.shape, statistics.device) != wanted:
        raise UserError(
            f"instance_norm_act: statistics must be {wanted[0]} [3, {n}, {c}] on {x.device}, "
            f"got {statistics.dtype} {list(statistics.shape)} on {statistics.device}"
        )
    if statistics.requires_grad:
        raise UserError("instance_norm_act: statistics get no gradient: pass statistics.detach()")
    if count is not None and count <= 0:
        raise UserError(f"instance_norm_act: statistics_count must be above 0, got {count}")
    if not constant and count not in (None, h * w):
        raise UserError(
            f"instance_norm_act: statistics over {count} pixels are not those of planes of {h} x {w}: "
            "pass constant_statistics=True"
        )
