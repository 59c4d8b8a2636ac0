"""Pixels as tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast.images.tensors import as_tensor


@pytest.mark.parametrize("kind", ["read-only", "mirrored", "of Pillow"])
def test_pixels_that_torch_cannot_share_are_copied(kind: str) -> None:
    """torch would warn of the first, which users then read, and refuse the second."""
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    if kind == "read-only":
        pixels.flags.writeable = False
    elif kind == "mirrored":
        pixels = pixels[:, ::-1]
    else:
        pixels = np.asarray(Image.fromarray(pixels))
        assert not pixels.flags.writeable
    tensor = as_tensor(pixels)
    assert np.array_equal(tensor.numpy(), pixels) and not np.shares_memory(tensor.numpy(), pixels)


def test_other_pixels_are_shared() -> None:
    pixels = np.zeros((4, 5, 3), np.uint16)
    tensor = as_tensor(pixels)
    assert tensor.dtype == torch.uint16 and np.shares_memory(tensor.numpy(), pixels)
