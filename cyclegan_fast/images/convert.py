"""Images of every kind a user may hold, to the network's tensors, and the results back to the same kind.

    a path            read by the rule of `cyclegan_fast.images.decode`, with all its bits; a PIL image comes back
    a folder          its images and those of the folders below it, sorted by path; a list of PIL images comes back
    a glob pattern    the files that it matches, sorted (``**`` for any folders); a list of PIL images comes back
    a PIL image       converted by the same rule, not rotated; a PIL image comes back
    a numpy array     [H, W, C] or [N, H, W, C]
    a torch tensor    [C, H, W] or [N, C, H, W], on any device
    a list of these   a list comes back, in the same order

Arrays and tensors hold uint8 (0 to 255), uint16 (0 to 65535) or floats (-1 to 1), and the result has the same type;
integers are rounded, never truncated.

Files and PIL images of 8 and 16 bits are taken over their full range, whatever depth the generator was trained at, and
their results have as many bits. A generator of floating-point images takes all values as they stand in the file, and
gives values on the scale of the images it makes. PIL knows no 16-bit colour, so there the result has 8 bits, and a
warning says so; `python -m cyclegan_fast.translate` writes files with all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast import ops
from cyclegan_fast.config import Depth, PixelFormat
from cyclegan_fast.errors import UserError
from cyclegan_fast.images import BadImageError, to_model_range
from cyclegan_fast.images.decode import count_clipped, native, native_of, to_pixel_format
from cyclegan_fast.images.find import is_pattern, list_images, match_files

Rebuild = Callable[[list[Tensor]], Any]
Unpacked = tuple[list[Tensor], Rebuild]

_TOP = {torch.uint8: 255, torch.uint16: 65535}  # the value of white
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_DEPTHS: dict[np.dtype, Depth] = {np.dtype(np.uint8): "8", np.dtype(np.uint16): "16"}
_TOLERANCE = 1e-3  # beyond [-1, 1], for the rounding of 16-bit floats


class InputImage(NamedTuple):
    """A file or PIL image on its way into a network."""

    values: Tensor
    """float32 [C, H, W] in [-1, 1]."""
    depth: Depth
    """That its result has."""
    clipped: int
    """Values that lay outside the range of the generator's images."""


def read_input(path: Path, in_format: PixelFormat, out_format: PixelFormat) -> InputImage:
    """Reads a file for a generator that takes images of `in_format` and makes images of `out_format`.

    Raises:
        BadImageError: It cannot be read, or its values have no range that the generator knows.
    """
    pixels = native(path, in_format.channels)
    try:
        return _to_input(pixels, in_format, out_format)
    except ValueError as error:
        raise BadImageError(path, str(error)) from error


def from_values(values: Tensor, depth: Depth, out_format: PixelFormat) -> np.ndarray:
    """A network's result as pixels: float32 [C, H, W] in [-1, 1] -> [H, W, C] in uint8, uint16 or float32.

    Floats have the scale of the images that the generator was trained to make.
    """
    if depth == "float":
        low, high = out_format.scale
        scaled = (values.double() + 1.0) * ((high - low) / 2.0) + low
        return scaled.float().permute(1, 2, 0).contiguous().cpu().numpy()
    levels = to_levels(values[None].contiguous(), torch.uint8 if depth == "8" else torch.uint16)[0]
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()


def unpack(images: Any, in_format: PixelFormat, out_format: PixelFormat) -> Unpacked:
    """Takes images apart.

    Args:
        images: An image, a batch, or a list; see this file's head.
        in_format: Of the images that the network takes.
        out_format: Of the images that it makes.

    Returns:
        The images, each float32 [C, H, W] in [-1, 1], and a function that takes the results, each [C', H, W], and gives
        back what the user gave.

    Raises:
        UserError: A wrong kind, type, layout, number of channels, or pixels that are not numbers.
    """
    if isinstance(images, list | tuple):
        return _unpack_list(images, in_format, out_format)
    if isinstance(images, str | Path):
        paths = find_paths(images)
        if paths is not None:
            return _unpack_list(paths, in_format, out_format)
        return _unpack_input(read_input(Path(images), in_format, out_format), f"{images}", out_format)
    if isinstance(images, Image.Image):
        return _unpack_pil(images, in_format, out_format)
    if isinstance(images, np.ndarray):
        return _unpack_array(images, in_format.channels, out_format.channels)
    if isinstance(images, Tensor):
        rule, mend = "a tensor is [C, H, W] or [N, C, H, W]", "permute(2, 0, 1)"
        _check_layout(images.shape, -3, -1, in_format.channels, rule, mend)
        planes, rebuild = _unpack_tensor(images, out_format.channels)
        return planes, lambda results: rebuild(results).contiguous()
    raise UserError(
        f"an image of type {type(images).__name__} is not known: give a path, a PIL image, a numpy array, "
        "a torch tensor, or a list of them"
    )


def find_paths(name: str | Path) -> list[Path] | None:
    """The images of a folder or of a glob pattern, sorted; None of anything else.

    Raises:
        UserError: There are none.
    """
    path = Path(name)
    if path.is_dir():
        return list_images(path)
    if path.exists() or not is_pattern(name):
        return None
    found = match_files(name)
    if not found:
        raise UserError(f"{name} matches no file: mend the pattern, or give a folder")
    return found


def to_levels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, C, H, W] in [-1, 1] -> integers from 0 to the type's white, rounded and clamped; floats are only cast."""
    if dtype == torch.uint8:
        return ops.to_uint8(images).permute(0, 3, 1, 2)
    if dtype not in _TOP:
        return images.to(dtype)
    half = _TOP[dtype] / 2
    return ((images.float() + 1.0) * half).round().clamp(0.0, _TOP[dtype]).to(dtype)


def _unpack_list(images: Sequence[Any], in_format: PixelFormat, out_format: PixelFormat) -> Unpacked:
    parts = [unpack(image, in_format, out_format) for image in images]

    def rebuild(results: list[Tensor]) -> list[Any]:
        left = iter(results)
        return [rebuild_part([next(left) for _ in planes]) for planes, rebuild_part in parts]

    return [plane for planes, _ in parts for plane in planes], rebuild


def _unpack_pil(image: Image.Image, in_format: PixelFormat, out_format: PixelFormat) -> Unpacked:
    try:
        taken = _to_input(native_of(image, in_format.channels), in_format, out_format)
    except (ValueError, OSError, SyntaxError) as error:
        raise UserError(f"the PIL image cannot be used: {error}") from error
    return _unpack_input(taken, "the PIL image", out_format)


def _unpack_input(image: InputImage, name: str, out_format: PixelFormat) -> Unpacked:
    if image.clipped:
        warnings.warn(f"{name}: {image.clipped} values were clipped to the generator's range", stacklevel=5)
    channels, depth = out_format.channels, image.depth
    if channels not in (1, 3) or (depth == "float" and channels != 1):
        kind = "floating-point colour" if channels == 3 else f"images of {channels} channels"
        raise UserError(f"PIL knows no {kind}, which this generator makes of {name}: give a numpy array")
    if depth == "16" and channels == 3:
        warnings.warn("16-bit images become 8-bit colour images: PIL knows no deeper colour", stacklevel=5)
        depth = "8"

    def rebuild(results: list[Tensor]) -> Image.Image:
        pixels = from_values(results[0], depth, out_format)
        return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)

    return [image.values], rebuild


def _to_input(pixels: np.ndarray, in_format: PixelFormat, out_format: PixelFormat) -> InputImage:
    """Native pixels [H, W, C] of a file or PIL image."""
    pixel_format = input_format(pixels.dtype, in_format)
    values = to_model_range(torch.from_numpy(to_pixel_format(pixels, pixel_format))[None])[0]
    return InputImage(values, result_depth(pixels.dtype, out_format), count_clipped(pixels, pixel_format))


def input_format(dtype: np.dtype, in_format: PixelFormat) -> PixelFormat:
    """How a generator of `in_format` takes native pixels of a type: whole numbers with the depth that they have.

    Raises:
        ValueError: It knows no range for them.
    """
    if in_format.depth == "float":
        return in_format
    if dtype not in _DEPTHS:
        raise ValueError(
            f"floating-point pixels (or signed ones, or more than 16 bits): this generator was trained on images of "
            f"{in_format.depth} bits and knows no range for them"
        )
    return PixelFormat(channels=in_format.channels, depth=_DEPTHS[dtype])


def result_depth(dtype: np.dtype, out_format: PixelFormat) -> Depth:
    """The depth of what a generator of `out_format` makes of native pixels of a type."""
    return "float" if out_format.depth == "float" else _DEPTHS.get(dtype, "float")


def _unpack_array(array: np.ndarray, in_channels: int, out_channels: int) -> Unpacked:
    _check_layout(array.shape, -1, -3, in_channels, "an array is [H, W, C] or [N, H, W, C]", "transpose(1, 2, 0)")
    native = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])  # torch warns of what cannot be written
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
