"""unpack: arrays, tensors and PIL images in every memory layout give the right values, or one sentence."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclegan_fast import logs
from cyclegan_fast.config import PixelFormat
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.convert import unpack

RGB = PixelFormat()
TOPS = {"u1": 255, "u2": 65535}


def image(kind: str, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (
        rng.uniform(-1, 1, shape).astype(kind)
        if kind[0] == "f"
        else rng.integers(0, TOPS[kind] + 1, shape).astype(kind)
    )


def there_and_back(images: Any, pixel_format: PixelFormat = RGB) -> tuple[np.ndarray, Any]:
    """What the network sees, [N, C, H, W], and what comes back of a network that changes nothing."""
    planes, rebuild = unpack(images, pixel_format, pixel_format)
    return torch.stack(planes).numpy(), rebuild(planes)


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.setflags(write=False)
    return x


def swapped(x: np.ndarray) -> np.ndarray:
    return x.astype(x.dtype.newbyteorder(">"))


def unaligned(x: np.ndarray) -> np.ndarray:
    space = np.zeros(x.nbytes + 1, np.uint8)
    view = np.frombuffer(space.data, x.dtype, x.size, offset=1).reshape(x.shape)
    view[...] = x
    return view


ARRAY_VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored": lambda x: x[:, ::-1],
    "upside down": lambda x: x[::-1],
    "BGR": lambda x: x[..., ::-1],
    "every second pixel": lambda x: x[::2, ::2],
    "Fortran order": np.asfortranarray,
    "channels first, turned": lambda x: np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0),
    "turned": lambda x: np.rot90(x),
    "crop": lambda x: x[2:9, 3:8],
    "broadcast": lambda x: np.broadcast_to(x[:, :, :1], x.shape),
    "read only": read_only,
    "byte-swapped": swapped,
    "byte-swapped and mirrored": lambda x: swapped(x)[:, ::-1],
    "unaligned": unaligned,
    "from memory": lambda x: np.frombuffer(memoryview(x.tobytes()), x.dtype).reshape(x.shape),
    "subclass": lambda x: x.view(np.memmap),
}


@pytest.mark.parametrize("view", ARRAY_VIEWS)
@pytest.mark.parametrize("kind", ["u1", "u2", "f2", "f4", "f8"])
def test_views_of_arrays(view: str, kind: str) -> None:
    x = ARRAY_VIEWS[view](image(kind, 10, 14, 3))
    wanted = x.astype(np.float64) / (TOPS[kind] / 2) - 1 if kind in TOPS else x.astype(np.float64)
    seen, back = there_and_back(x)
    assert np.abs(seen[0] - wanted.transpose(2, 0, 1)).max() < 1e-6
    assert back.dtype == x.dtype.newbyteorder("=") and np.array_equal(back, x.astype("f4") if kind == "f8" else x)
    assert back.flags.c_contiguous and back.flags.writeable
    batch = np.stack([image(kind, 10, 14, 3)] * 2)[::-1]
    assert np.array_equal(there_and_back(batch)[1], batch.astype("f4") if kind == "f8" else batch)


TENSOR_VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "channels last": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "turned": lambda x: x.transpose(1, 2),
    "crop": lambda x: x[:, 2:9, 3:8],
    "every second pixel": lambda x: x[:, ::2, ::2],
    "expanded": lambda x: x[:1].expand(3, -1, -1),
    "part of a batch": lambda x: torch.stack([x, x])[1],
}


@pytest.mark.parametrize("view", TENSOR_VIEWS)
@pytest.mark.parametrize("kind", ["u1", "u2", "f2", "f4", "f8"])
def test_views_of_tensors(view: str, kind: str) -> None:
    x = TENSOR_VIEWS[view](torch.from_numpy(image(kind, 3, 10, 14)))
    wanted = x.numpy().astype(np.float64) / (TOPS[kind] / 2) - 1 if kind in TOPS else x.numpy().astype(np.float64)
    seen, back = there_and_back(x)
    assert np.abs(seen[0] - wanted).max() < 1e-6
    assert back.dtype == x.dtype and back.is_contiguous() and torch.equal(back, x.float().to(x.dtype))


def test_a_tensor_that_needs_gradients_is_detached() -> None:
    x = torch.zeros(3, 4, 5, requires_grad=True)
    assert not there_and_back(x)[1].requires_grad


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (np.ma.masked_array(np.zeros((4, 5, 3), np.uint8), False), r"masked array.*x\.filled"),
        (np.zeros((4, 5, 3), object), "pixels of type object are not known"),
        (np.zeros((4, 5, 3), [("a", "u1")]), "are not known: give uint8"),
        (np.zeros((4, 5, 3), np.longdouble), "are not known: give uint8"),
        (np.zeros((4, 5, 3), np.complex64), "are not known: give uint8"),
        (np.zeros((4, 5, 3), np.uint32), "are not known: give uint8"),
        (np.zeros((4, 5, 3), "M8[s]"), "are not known: give uint8"),
        (torch.zeros(3, 4, 5).to_sparse(), r"a sparse tensor is no image: give x\.to_dense\(\)"),
        (torch.zeros(3, 4, 5, device="meta"), "meta has no pixels"),
        (torch.nested.nested_tensor([torch.zeros(3, 4, 5)]), "a nested tensor is no image: give a list"),
        (torch.zeros(3, 4, 5, dtype=torch.complex64), "are not known: give uint8"),
        ("x" * 5000, "cannot be read .File name too long"),
        (memoryview(bytes(60)), "the encoded image: not an image in a known format"),
        (bytes(60), "the encoded image: not an image in a known format"),
        (np.zeros((), np.uint8), r"an array is \[H, W, C\]"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_what_holds_no_pixels_is_refused_in_a_sentence(images: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        unpack(images, RGB, RGB)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_of_pil(mode: str) -> None:
    rng = np.random.default_rng(0)
    base = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    alpha = Image.fromarray(rng.integers(0, 256, (6, 8), dtype=np.uint8))
    whole = base.convert("RGBA")
    whole.putalpha(alpha)
    source = {"La": whole.convert("LA"), "RGBa": whole, "LA": whole, "RGBA": whole}.get(mode, base).convert(mode)
    if mode == "PA":
        source = base.convert("P").convert("PA")
    plain = source.convert(mode.upper()) if mode in ("La", "RGBa") else source
    rgba = np.asarray(plain.convert("RGBA"), np.float64)
    wanted = rgba[..., :3] * rgba[..., 3:] / 255 + 255 - rgba[..., 3:]
    seen, back = there_and_back(source)
    assert np.abs((seen[0].transpose(1, 2, 0) + 1) * 127.5 - wanted).max() <= 1.001 and back.mode == "RGB"


def test_results_with_transparency(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_reported", set())
    for mode in ("LA", "RGBA"):
        x = Image.fromarray(image("u1", 6, 8, len(mode)), mode)
        back = there_and_back(x, PixelFormat(channels=len(mode)))[1]
        assert back.mode == mode and np.array_equal(np.asarray(back), np.asarray(x))
    with pytest.raises(UserError, match="PIL knows no images of 5 channels"):
        unpack(Image.new("RGB", (4, 4)), RGB, PixelFormat(channels=5))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            unpack(Image.fromarray(image("u2", 6, 8)), PixelFormat(channels=1), PixelFormat(channels=4))
    assert caplog.messages == ["16-bit images become 8-bit colour images: PIL knows no deeper colour"]
