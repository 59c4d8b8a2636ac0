"""PNM: binary and as text, at every value of white; and floating-point PFM."""

from pathlib import Path

import numpy as np
import pytest

from cyclegan_fast.data.catalog.probe import inspect
from cyclegan_fast.images import BadImageError
from cyclegan_fast.images.decode import read_unscaled
from cyclegan_fast.images.image_file import ImageFile

KINDS = {"P5": 1, "P6": 3, "P2": 1, "P3": 3}


def pnm(kind: str, white: int, values: np.ndarray) -> bytes:
    if kind in ("P2", "P3"):
        body = "# a comment\n".join(f"{value}\n" for value in values.ravel()).encode()
    else:
        body = values.astype(">u2" if white > 255 else "u1").tobytes()
    return f"{kind}\n# a comment\n6 5\n{white}\n".encode() + body


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("white", [1, 7, 100, 255, 256, 1023, 4095, 65535])
def test_every_white(tmp_path: Path, kind: str, white: int) -> None:
    values = np.random.default_rng(0).integers(0, white + 1, (5, 6, KINDS[kind]))
    values[0, 0], values[0, 1] = white, 0
    content, path = pnm(kind, white, values), tmp_path / "x.ppm"
    path.write_bytes(content)
    top = 255 if white <= 255 else 65535
    made = read_unscaled(path, KINDS[kind])
    assert made.dtype == (np.uint8 if top == 255 else np.uint16)
    assert np.abs(made - values * (top / white)).max() <= 0.51
    metadata = inspect(ImageFile(str(path)))
    assert (metadata.channels, metadata.values) == (KINDS[kind], "8" if top == 255 else "16")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadImageError, match=r"truncated|enough|EOF"):
        read_unscaled(path, KINDS[kind])


@pytest.mark.parametrize(("scale", "dtype"), [("-1.0", "<f4"), ("1.0", ">f4")])
def test_pfm(tmp_path: Path, scale: str, dtype: str) -> None:
    values = np.random.default_rng(0).random((5, 6, 1)).astype(dtype)
    (tmp_path / "x.ppm").write_bytes(f"Pf\n6 5\n{scale}\n".encode() + values[::-1].tobytes())
    assert np.array_equal(read_unscaled(tmp_path / "x.ppm", 1), values)
