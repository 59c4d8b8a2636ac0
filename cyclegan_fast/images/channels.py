"""Decoded pixels with what their channels mean, and the rules that make grey or RGB of them.

These are the rules of `cyclegan_fast.images.decode` for pixels that did not come through Pillow: they hold for whole
images and for some rows of one alike.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

MODES = {1: "L", 3: "RGB"}  # channels -> the mode of Pillow
_LUMA = np.array((0.299, 0.587, 0.114))  # Rec. 601


class StoredImage(NamedTuple):
    """Pixels as they are stored, with what their channels mean."""

    pixels: np.ndarray
    """[H, W, C], not turned yet; unsigned ones of 8 or 16 bits over their full range."""
    colour: Literal["", "rgb", "cmyk"] = ""
    """What the first channels are; empty for grey, or for channels without a known meaning."""
    alpha: str = ""
    """How the last channel is transparency: "straight", "premultiplied", or not at all."""
    orientation: int = 1
    """As in EXIF."""
    pages: int = 1
    """Of the file; these pixels are those of the first."""

    @property
    def is_image(self) -> bool:
        """Whether the channels are grey or colour (and transparency), of which grey and RGB can be made."""
        return bool(self.colour or self.alpha) or self.pixels.shape[2] == 1


def to_channels(stored: StoredImage, channels: int) -> np.ndarray:
    """[H, W, C] -> [H, W, channels].

    Raises:
        ValueError: There is no rule for it.
    """
    pixels, colour = stored.pixels, stored.colour
    have = pixels.shape[2]
    if have == channels and not (channels in MODES and stored.alpha):
        return pixels
    if channels in MODES and stored.alpha:
        has_white = pixels.dtype in (np.uint8, np.uint16)  # others have nothing to be laid over
        pixels = _over_white(pixels, stored.alpha, subtractive=colour == "cmyk") if has_white else pixels[..., :-1]
        have -= 1
    if colour and channels in MODES:
        rgb = _cmyk_to_rgb(pixels[..., :4]) if colour == "cmyk" else pixels[..., :3]  # others have no known meaning
        return rgb if channels == 3 else _rounded(rgb @ _LUMA, pixels.dtype)[..., None]
    if have == channels:
        return pixels
    if channels == 3 and have == 1:
        return np.repeat(pixels, 3, axis=2)
    raise ValueError(wrong_channels(have, channels))


def wrong_channels(have: int, wanted: int) -> str:
    """Tells that a file has another number of channels than its domain."""
    return f"it has {have} channels, and {wanted} are wanted; --channels-A and --channels-B say how many a domain has"


def upright(stored: StoredImage) -> np.ndarray:
    """The pixels, turned and mirrored as the orientation demands: [H, W, C]."""
    pixels, turn = stored.pixels, stored.orientation
    if turn in (2, 3, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7):
        pixels = pixels[::-1]
    if turn in (5, 7):
        pixels = pixels.swapaxes(0, 1)
    if turn in (6, 8):
        pixels = np.rot90(pixels, 1 if turn == 8 else -1)
    return np.ascontiguousarray(pixels)


def narrowed(pixels: np.ndarray) -> np.ndarray:
    """Signed and wide whole numbers as uint16 where all of them lie between 0 and 65535; others as they are."""
    if pixels.dtype.kind not in "ui" or pixels.dtype.itemsize < 2 or pixels.dtype == np.uint16 or not pixels.size:
        return pixels
    return pixels.astype(np.uint16) if pixels.min() >= 0 and pixels.max() <= 65535 else pixels


def to_pil(pixels: np.ndarray) -> Image.Image:
    """uint8 [H, W, 1 to 4] as "L", "LA", "RGB" or "RGBA"; one channel of uint16 or float32 as "I;16" or "F"."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _over_white(pixels: np.ndarray, alpha: str, *, subtractive: bool) -> np.ndarray:
    """Lays [H, W, C + 1], the last channel being transparency, over white: [H, W, C]."""
    white = np.iinfo(pixels.dtype).max
    share = pixels[..., -1:] / white
    colours = pixels[..., :-1] * (share if alpha == "straight" else 1.0)
    return _rounded(colours + (0.0 if subtractive else white * (1.0 - share)), pixels.dtype)


def _cmyk_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 [H, W, 4] -> [H, W, 3], without a colour profile."""
    white = np.iinfo(pixels.dtype).max
    ink, black = pixels[..., :3].astype(np.float64), pixels[..., 3:].astype(np.float64)
    return _rounded((white - ink) * (white - black) / white, pixels.dtype)


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 values in a type; as they are for wide whole numbers, whose ends float64 cannot hold."""
    if dtype.kind == "f":
        return values.astype(dtype)
    if dtype not in (np.uint8, np.uint16):
        return values
    return np.rint(values).clip(0, np.iinfo(dtype).max).astype(dtype)
