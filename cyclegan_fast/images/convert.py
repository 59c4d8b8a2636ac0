"""Images of every kind a user may hold, to the network's tensors, and the results back to the same kind.

    a path            read by the rule of `cyclegan_fast.images.decode`, with all its bits; a PIL image comes back
    a folder          its images and those of the folders below it, sorted by path; a list of PIL images comes back
    a glob pattern    the files that it matches, sorted (``**`` for any folders); a list of PIL images comes back
    bytes, bytearray, memoryview    an encoded image, read as a path is; a PIL image comes back
    a binary file     the same, from where it stands to its end (`io.BytesIO`, ``open(path, "rb")``, an upload's file);
                      it stays open; a PIL image comes back
    a PIL image       converted by the same rule, not rotated; a PIL image comes back
    a numpy array     [H, W, C] or [N, H, W, C]
    a torch tensor    [C, H, W] or [N, C, H, W], on any device
    a list of these   a list comes back, in the same order

Arrays and tensors hold uint8 (0 to 255), uint16 (0 to 65535) or floats (-1 to 1), in any memory layout and byte order,
and the result has the same type; integers are rounded, never truncated. Floats of which none is below 0 are taken as
they are, and a warning reports once that they may be meant as 0 to 1.

What comes back of files and PIL images has their colour profile in its `info`, if it has as many colours as that is
about, and no other metadata: ``image.save(path, icc_profile=image.info.get("icc_profile"))``.

They go through `cyclegan_fast.images.model_io`. PIL knows no 16-bit colour, so there the result has 8 bits, and a
warning reports it; `python -m cyclegan_fast.translate` writes files with all of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.errors import MissingFileError, UserError
from cyclegan_fast.images.channels import to_pil
from cyclegan_fast.images.find import is_folder, is_pattern, list_images, match_files, refuse_url
from cyclegan_fast.images.image_file import ImageFile
from cyclegan_fast.images.in_memory import encoded_image, faults_of_item
from cyclegan_fast.images.metadata import KEEP, metadata_for, profile_fits
from cyclegan_fast.images.model_io import WHITE, InputImage, from_values, pil_input, read_input, to_levels
from cyclegan_fast.logs import warn_once

log = logging.getLogger(__name__)

Rebuild = Callable[[list[Tensor]], Any]
Unpacked = tuple[list[Tensor], Rebuild]

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_TOLERANCE = 1e-3  # beyond [-1, 1], for the rounding of 16-bit floats
_NOTHING_BELOW_ZERO = (
    "no pixel of a floating-point image is below 0: floats are taken as [-1, 1], black to white; "
    "if yours go from 0 to 1, give x * 2 - 1"
)


def unpack(images: Any, in_format: PixelFormat, out_format: PixelFormat) -> Unpacked:
    """Takes images apart.

    Args:
        images: An image, a batch, or a list; see this file's head.
        in_format: Pixel format of the network's input images.
        out_format: Pixel format of its output images.

    Returns:
        The images, each float32 [C, H, W] in [-1, 1], and a function that takes the results, each [C', H, W], and gives
        back what the user gave.

    Raises:
        UserError: A wrong kind, type, layout, number of channels, or pixels that are not numbers.
    """
    if isinstance(images, list | tuple):
        return unpack_items(images, in_format, out_format)
    if isinstance(images, str | os.PathLike):
        paths = find_paths(images)
        if paths is not None:
            return unpack_items(paths, in_format, out_format)
        return _unpack_file(Path(images), in_format, out_format)
    if (encoded := encoded_image(images)) is not None:
        return _unpack_file(encoded, in_format, out_format)
    if isinstance(images, Image.Image):
        return _unpack_pil(images, in_format, out_format)
    if isinstance(images, np.ndarray):
        return _unpack_array(images, in_format.channels, out_format.channels)
    if isinstance(images, Tensor):
        rule, fix = "a tensor is [C, H, W] or [N, C, H, W]", "permute(2, 0, 1)"
        _check_plain(images)
        _check_layout(images.shape, -3, -1, in_format.channels, rule, fix)
        planes, rebuild = _unpack_tensor(images, out_format.channels)
        return planes, lambda results: rebuild(results).contiguous()
    raise UserError(
        f"an image of type {type(images).__name__} is not known: give a path, the bytes of an image file, an open "
        "binary file, a PIL image, a numpy array, a torch tensor, or a list of them"
    )


def find_paths(name: str | os.PathLike[str]) -> list[Path] | None:
    """The images of a folder or of a glob pattern, sorted; None of anything else.

    Raises:
        UserError: There are none, or it is a URL.
    """
    refuse_url(name, "download it, and give its bytes or the file")
    path = Path(name)
    if is_folder(path):
        return list_images(path)
    if path.exists() or not is_pattern(path):
        return None
    found = match_files(path)
    if not found:
        raise MissingFileError(f"{name} matches no file: correct the pattern, or give a folder")
    return found


def unpack_items(
    images: Sequence[Any], in_format: PixelFormat, out_format: PixelFormat, *, of: str = "list", start: int = 0
) -> Unpacked:
    """`unpack` of a list; its errors have the index of the image in what they call `of`, where the list is at `start`.

    Raises:
        UserError: As `unpack` does.
    """
    parts = []
    for i, image in enumerate(images, start):
        with faults_of_item(i, image, of):
            parts.append(unpack(image, in_format, out_format))

    def rebuild(results: list[Tensor]) -> list[Any]:
        left = iter(results)
        return [rebuild_part([next(left) for _ in planes]) for planes, rebuild_part in parts]

    return [plane for planes, _ in parts for plane in planes], rebuild


def _unpack_file(source: ImageFile | Path, in_format: PixelFormat, out_format: PixelFormat) -> Unpacked:
    found = read_input(source, in_format, out_format)
    return _unpack_input(found, f"{source}", out_format, metadata_for(source, KEEP).profile)


def _unpack_pil(image: Image.Image, in_format: PixelFormat, out_format: PixelFormat) -> Unpacked:
    try:
        found = pil_input(image, in_format, out_format)
    except (ValueError, OSError, SyntaxError) as error:
        raise UserError(f"the PIL image cannot be used: {error}") from error
    return _unpack_input(found, "the PIL image", out_format, image.info.get("icc_profile") or b"")


def _unpack_input(image: InputImage, name: str, out_format: PixelFormat, profile: bytes) -> Unpacked:
    if image.clipped:
        warn_once(log, f"{name}: {image.clipped} values were clipped to the generator's range")
    _check_not_empty(*image.values.shape[1:])
    channels, depth = out_format.channels, image.depth
    if channels > 4 or (depth == "float" and channels != 1):
        kind = "floating-point colour" if channels <= 4 else f"images of {channels} channels"
        raise UserError(f"PIL knows no {kind}, which this generator makes of {name}: give a numpy array")
    if depth == "16" and channels != 1:
        warn_once(log, "16-bit images become 8-bit colour images: PIL knows no deeper colour")
        depth = "8"

    def rebuild(results: list[Tensor]) -> Image.Image:
        made = to_pil(from_values(results[0], depth, out_format))
        if profile_fits(profile, channels):
            made.info["icc_profile"] = profile
        return made

    return [image.values], rebuild


def _unpack_array(array: np.ndarray, in_channels: int, out_channels: int) -> Unpacked:
    if isinstance(array, np.ma.MaskedArray):
        raise UserError("a masked array has no values where it is masked: give x.filled(value)")
    _check_layout(array.shape, -1, -3, in_channels, "an array is [H, W, C] or [N, H, W, C]", "transpose(1, 2, 0)")
    own_order = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])  # torch warns of what cannot be written
    try:
        tensor = torch.from_numpy(own_order)
    except TypeError:
        raise _wrong_type(array.dtype) from None
    planes, rebuild = _unpack_tensor(tensor.movedim(-1, -3), out_channels)
    return planes, lambda results: rebuild(results).movedim(-3, -1).contiguous().numpy()


def _unpack_tensor(images: Tensor, out_channels: int) -> Unpacked:
    """[C, H, W] or [N, C, H, W] of any type."""
    single = images.dim() == 3
    if single or len(images):
        _check_not_empty(*images.shape[-2:])
    values = _to_model_range(images.detach()[None] if single else images.detach())

    def rebuild(results: list[Tensor]) -> Tensor:
        batch = torch.stack(results) if results else values.new_empty((0, out_channels, *values.shape[2:]))
        batch = to_levels(batch, images.dtype).to(images.device)
        return batch[0] if single else batch

    return list(values), rebuild


def _to_model_range(images: Tensor) -> Tensor:
    """Any known type -> float32 in [-1, 1]."""
    if images.dtype in WHITE:
        return images.float() / (WHITE[images.dtype] / 2) - 1.0
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
    if peak and images.amin().item() >= 0.0:
        warn_once(log, _NOTHING_BELOW_ZERO)
    return images


def _wrong_type(dtype: Any) -> UserError:
    name = str(dtype).removeprefix("torch.")  # which the types of arrays that torch knows have become
    return UserError(f"pixels of type {name} are not known: give uint8, uint16, or floats in [-1, 1]")


def _check_not_empty(height: int, width: int) -> None:
    if min(height, width) < 1:
        raise UserError(f"an image of {width}x{height} pixels is empty: give at least one pixel")


def _check_plain(images: Tensor) -> None:
    """Refuses tensors whose values do not lie in memory, one beside the other."""
    if images.is_nested or images.layout != torch.strided or images.is_quantized:
        kind = "nested" if images.is_nested else "quantized" if images.is_quantized else "sparse"
        fix = {"nested": "a list of tensors", "quantized": "x.dequantize()", "sparse": "x.to_dense()"}[kind]
        raise UserError(f"a {kind} tensor is no image: give {fix}")
    if images.is_meta:
        raise UserError("a tensor on the device meta has no pixels: give one that holds values")


def _check_layout(shape: Sequence[int], axis: int, other: int, channels: int, rule: str, fix: str) -> None:
    """Checks that `channels` stand at `axis`; its message differs where they stand at `other`, as elsewhere."""
    if len(shape) not in (3, 4):
        raise UserError(f"{rule}, got the shape {list(shape)}")
    if shape[axis] == channels:
        return
    if shape[other] == channels:
        raise UserError(f"{rule}, but {list(shape)} has its {channels} channels elsewhere; give x.{fix} of each image")
    raise UserError(f"the network takes images of {channels} channels; {rule}, got the shape {list(shape)}")
