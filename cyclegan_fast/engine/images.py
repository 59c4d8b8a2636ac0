"""Images of every kind a user may hold, to the network's tensors, and the results back to the same kind.

    a path            read by the rule of `cyclegan_fast.data.decode`; a PIL image comes back
    a PIL image       converted by the same rule, not rotated; a PIL image comes back
    a numpy array     [H, W, C] or [N, H, W, C]
    a torch tensor    [C, H, W] or [N, C, H, W], on any device
    a list of these   a list comes back, in the same order

Arrays and tensors hold uint8 (0 to 255), uint16 (0 to 65535) or floats (-1 to 1), and the result has the same type;
integers are rounded, never truncated. 16-bit grey files and PIL images give 16-bit grey results where the network makes
grey images; colour results have 8 bits, for PIL knows no deeper colour, and a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.data import decode, to_array, to_mode
from cyclegan_fast.data.decode import probe
from cyclegan_fast.errors import UserError

Rebuild = Callable[[list[Tensor]], Any]
Unpacked = tuple[list[Tensor], Rebuild]

_TOP = {torch.uint8: 255, torch.uint16: 65535}  # the value of white
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_TOLERANCE = 1e-3  # beyond [-1, 1], for the rounding of 16-bit floats


def unpack(images: Any, in_channels: int, out_channels: int) -> Unpacked:
    """Takes images apart.

    Args:
        images: An image, a batch, or a list; see this file's head.
        in_channels: Channels that the network takes.
        out_channels: Channels that the network gives.

    Returns:
        The images, each float32 [in_channels, H, W] in [-1, 1], and a function that takes the results, each
        [out_channels, H, W], and gives back what the user gave.

    Raises:
        UserError: A wrong kind, type, layout, number of channels, or pixels that are not numbers.
    """
    if isinstance(images, list | tuple):
        return _unpack_list(images, in_channels, out_channels)
    if isinstance(images, str | Path):
        return _unpack_pil(_read(Path(images), in_channels), in_channels, out_channels)
    if isinstance(images, Image.Image):
        return _unpack_pil(images, in_channels, out_channels)
    if isinstance(images, np.ndarray):
        return _unpack_array(images, in_channels, out_channels)
    if isinstance(images, Tensor):
        _check_layout(images.shape, -3, -1, in_channels, "a tensor is [C, H, W] or [N, C, H, W]", "permute(2, 0, 1)")
        planes, rebuild = _unpack_tensor(images, out_channels)
        return planes, lambda results: rebuild(results).contiguous()
    raise UserError(
        f"an image of type {type(images).__name__} is not known: give a path, a PIL image, a numpy array, "
        "a torch tensor, or a list of them"
    )


def to_levels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, C, H, W] in [-1, 1] -> integers from 0 to the type's white, rounded and clamped; floats are only cast."""
    if dtype == torch.uint8:
        return ops.to_uint8(images).permute(0, 3, 1, 2)
    if dtype not in _TOP:
        return images.to(dtype)
    half = _TOP[dtype] / 2
    return ((images.float() + 1.0) * half).round().clamp(0.0, _TOP[dtype]).to(dtype)


def _unpack_list(images: Sequence[Any], in_channels: int, out_channels: int) -> Unpacked:
    parts = [unpack(image, in_channels, out_channels) for image in images]

    def rebuild(results: list[Tensor]) -> list[Any]:
        left = iter(results)
        return [rebuild_part([next(left) for _ in planes]) for planes, rebuild_part in parts]

    return [plane for planes, _ in parts for plane in planes], rebuild


def _unpack_pil(image: Image.Image, in_channels: int, out_channels: int) -> Unpacked:
    deep = _is_deep(image)
    planes, rebuild_array = _unpack_array(_pil_to_array(image, in_channels, deep), in_channels, out_channels)
    if deep and out_channels != 1:
        warnings.warn("16-bit grey images become 8-bit colour images: PIL knows no deeper colour", stacklevel=5)

    def rebuild(results: list[Tensor]) -> Image.Image:
        if deep and out_channels == 1:
            return Image.fromarray(rebuild_array(results)[..., 0])
        pixels = ops.to_uint8(results[0][None].contiguous())[0].cpu().numpy()
        return Image.fromarray(pixels[..., 0] if out_channels == 1 else pixels)

    return planes, rebuild


def _pil_to_array(image: Image.Image, channels: int, deep: bool) -> np.ndarray:
    """uint8 [H, W, channels], or uint16 where the image is 16-bit grey."""
    try:
        shallow = to_array(to_mode(image, channels))  # it also refuses what has no known range
    except (ValueError, OSError, SyntaxError) as error:
        raise UserError(f"the PIL image cannot be used: {error}") from error
    if not deep:
        return shallow
    return np.repeat(np.asarray(image).astype(np.uint16)[..., None], channels, axis=2)


def _unpack_array(array: np.ndarray, in_channels: int, out_channels: int) -> Unpacked:
    _check_layout(array.shape, -1, -3, in_channels, "an array is [H, W, C] or [N, H, W, C]", "transpose(1, 2, 0)")
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    try:
        tensor = torch.from_numpy(native)
    except TypeError:
        raise _wrong_type(array.dtype) from None
    planes, rebuild = _unpack_tensor(tensor.movedim(-1, -3), out_channels)
    return planes, lambda results: rebuild(results).movedim(-3, -1).contiguous().numpy()


def _unpack_tensor(images: Tensor, out_channels: int) -> Unpacked:
    """[C, H, W] or [N, C, H, W] of any type."""
    single = images.dim() == 3
    values = _to_model_range(images.detach()[None] if single else images.detach())

    def rebuild(results: list[Tensor]) -> Tensor:
        batch = torch.stack(results) if results else values.new_empty((0, out_channels, *values.shape[2:]))
        batch = to_levels(batch, images.dtype).to(images.device)
        return batch[0] if single else batch

    return list(values), rebuild


def _to_model_range(images: Tensor) -> Tensor:
    """Any known type -> float32 in [-1, 1]."""
    if images.dtype in _TOP:
        return images.float() / (_TOP[images.dtype] / 2) - 1.0
    if images.dtype not in _FLOATS:
        raise _wrong_type(images.dtype)
    images = images.float()
    peak = images.abs().amax().item() if images.numel() else 0.0
    if not peak < float("inf"):
        raise UserError("an image holds pixels that are NaN or infinite")
    if peak > 1.0 + _TOLERANCE:
        raise UserError(
            f"pixels of a floating-point type must lie in [-1, 1], got {peak:g}; give uint8, or x / 127.5 - 1"
        )
    return images


def _wrong_type(dtype: Any) -> UserError:
    return UserError(f"pixels of type {dtype} are not known: give uint8, uint16, or floats in [-1, 1]")


def _check_layout(shape: Sequence[int], axis: int, other: int, channels: int, rule: str, mend: str) -> None:
    """Checks that `channels` stand at `axis`, and says so where they stand at `other`, as in the other library."""
    if len(shape) not in (3, 4):
        raise UserError(f"{rule}, got the shape {list(shape)}")
    if shape[axis] == channels:
        return
    if shape[other] == channels:
        raise UserError(f"{rule}, but {list(shape)} has its {channels} channels elsewhere; give x.{mend} of each image")
    raise UserError(f"the network takes images of {channels} channels; {rule}, got the shape {list(shape)}")


def _read(path: Path, channels: int) -> Image.Image:
    """Reads a file upright, and 16-bit grey with all its bits."""
    try:
        with Image.open(path) as image:
            deep = _is_deep(image)
    except Exception:
        deep = False  # `decode` says what is wrong with it
    if not deep:
        return decode(path, channels)
    probe(path)  # refuses damaged files with their name
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image)


def _is_deep(image: Image.Image) -> bool:
    """Whether an image is 16-bit grey."""
    return image.mode == "I" or image.mode.startswith("I;16")
