"""to_uint8 and from_uint8: the networks' floats, [N, C, H, W], to images of bytes, [N, H, W, C], and back."""

from __future__ import annotations

import torch
from torch import Tensor

from cyclegan_fast.errors import UserError
from cyclegan_fast.ops import reference
from cyclegan_fast.ops.extension import extension_available, runs_reference
from cyclegan_fast.ops.layout import DTYPES, check_dense


def to_uint8(images: Tensor, *, tanh: bool = False) -> Tensor:
    """Maps [-1, 1] to the levels 0 to 255, rounded and clamped, never truncated. Not differentiable.

    level = round((v + 1) * 127.5), halves to the even level, with v = tanh(x) or v = x.

    Args:
        images: [N, C, H, W] in float32, bfloat16, float16 or float64, contiguous or channels_last. What lies outside
            [-1, 1] is clamped; NaN becomes 0.
        tanh: Takes the tanh of `images` first, so that a network may leave it out.

    Returns:
        uint8 [N, H, W, C], contiguous. It undoes `from_uint8` exactly, in each of these types.

    Raises:
        UserError: if `images` has another number of axes, another type or another memory layout.
    """
    if images.dim() != 4 or images.dtype not in DTYPES:
        raise UserError(
            "to_uint8: images must have shape [N, C, H, W] in float32, bfloat16, float16 or float64, "
            f"got {list(images.shape)} in {images.dtype}"
        )
    if runs_reference(images):
        return reference.to_uint8(images.detach(), tanh)
    check_dense("to_uint8", "images", images)
    return torch.ops.cyclegan_fast.to_uint8(images.detach(), tanh)


def from_uint8(
    pixels: Tensor,
    *,
    crop: tuple[int, int] | None = None,
    placement: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Tensor:
    """Maps the levels 0 to 255 to [-1, 1], v / 127.5 - 1, over a crop of each image. Not differentiable.

    Args:
        pixels: uint8 [N, H, W, C], contiguous.
        crop: (h, w), the size of the crop; None is the whole image.
        placement: int32 [N, 3], contiguous, on the device of `pixels`: the crop's top and left, and whether it is
            mirrored left to right (not 0). None is 0, 0, 0 for all. It may be drawn on the device, under a CUDA graph:
            where nobody can read it beforehand (on CUDA, and inside torch.compile), an offset that would reach over
            the edge is moved to the nearest that does not.
        dtype: float32, bfloat16, float16 or float64. Computed in float32 (float64 for
            float64), then rounded once.
        channels_last: The memory format of the result.

    Returns:
        [N, C, h, w] in `dtype`, contiguous or channels_last.

    Raises:
        UserError: if a shape, a type or an option breaks a rule above, or a crop on the CPU does not lie in its image.
    """
    if pixels.dim() != 4 or pixels.dtype != torch.uint8:
        raise UserError(
            f"from_uint8: pixels must be uint8 [N, H, W, C], got {pixels.dtype} of shape {list(pixels.shape)}"
        )
    if dtype not in DTYPES:
        raise UserError(f"from_uint8: dtype must be float32, bfloat16, float16 or float64, got {dtype}")
    h, w = pixels.shape[1:3] if crop is None else crop
    if crop is not None and not (1 <= h <= pixels.shape[1] and 1 <= w <= pixels.shape[2]):
        raise UserError(
            f"from_uint8: crop must be from (1, 1) to {tuple(pixels.shape[1:3])}, the size of the images, got {crop}"
        )
    if placement is not None:
        _check_placement(pixels, h, w, placement)
    if runs_reference(pixels):
        return reference.from_uint8(pixels, h, w, placement, dtype, channels_last)
    _check_contiguous("pixels", pixels)
    if placement is not None:
        _check_contiguous("placement", placement)
    return torch.ops.cyclegan_fast.from_uint8(pixels, h, w, placement, dtype, channels_last)


def _check_contiguous(name: str, x: Tensor) -> None:
    if not x.is_contiguous():
        raise UserError(
            f"from_uint8: {name} must be contiguous, got strides {list(x.stride())} for shape {list(x.shape)}; "
            f"pass {name}.contiguous()"
        )


def _check_placement(pixels: Tensor, h: int, w: int, placement: Tensor) -> None:
    n, height, width, _ = pixels.shape
    if placement.shape != (n, 3) or placement.dtype != torch.int32 or placement.device != pixels.device:
        raise UserError(
            f"from_uint8: placement must be int32 [{n}, 3] on {pixels.device}, "
            f"got {placement.dtype} {list(placement.shape)} on {placement.device}"
        )
    if placement.device.type != "cpu" or torch.compiler.is_compiling():
        return
    for image, (top, left, _) in enumerate(placement.tolist()):
        if not (0 <= top <= height - h and 0 <= left <= width - w):
            raise UserError(
                f"from_uint8: the crop of {h}x{w} at row {top}, column {left} leaves image {image}, "
                f"which has {height} rows and {width} columns"
            )


def _fake_to_uint8(images: Tensor, tanh: bool) -> Tensor:
    n, c, h, w = images.shape
    return images.new_empty((n, h, w, c), dtype=torch.uint8)


def _fake_from_uint8(
    pixels: Tensor, h: int, w: int, placement: Tensor | None, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (pixels.shape[0], pixels.shape[3], h, w)
    return torch.empty(shape, dtype=dtype, device=pixels.device, memory_format=layout)


if extension_available():
    torch.library.register_fake("cyclegan_fast::to_uint8", _fake_to_uint8)
    torch.library.register_fake("cyclegan_fast::from_uint8", _fake_from_uint8)
