"""A user's script for type checkers: `infer` gives back what it was given. tests/typing/test_typing.py checks it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, assert_type

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

import cyclegan_fast
from cyclegan_fast import Engine, Tiling, UserError, infer, infer_async


def load(path: Path) -> Engine:
    try:
        return cyclegan_fast.load_engine(path, direction="AtoB", device="cpu", threads=2)
    except FileNotFoundError:
        raise
    except UserError as error:
        raise ValueError(str(error)) from error


def encoded(engine: Engine, upload: IO[bytes]) -> None:
    assert_type(infer(engine, "horse.jpg"), Image.Image)
    assert_type(infer(engine, Path("horse.jpg"), batch_size=1), Image.Image)
    assert_type(infer(engine, b"..."), Image.Image)
    assert_type(infer(engine, bytearray(8)), Image.Image)
    assert_type(infer(engine, io.BytesIO(b"...")), Image.Image)
    assert_type(infer(engine, upload), Image.Image)
    with Path("horse.jpg").open("rb") as file:
        assert_type(infer(engine, file), Image.Image)


def arrays(engine: Engine, array: npt.NDArray[np.uint8], floats: npt.NDArray[np.float32], tensor: Tensor) -> None:
    assert_type(infer(engine, array, tiling=Tiling("tile", 512)), npt.NDArray[np.uint8])
    assert_type(infer(engine, floats), npt.NDArray[np.float32])
    assert_type(infer(engine, tensor), Tensor)


def lists(engine: Engine, array: npt.NDArray[np.uint8], tensor: Tensor, image: Image.Image) -> None:
    assert_type(infer(engine, [tensor, tensor]), list[Tensor])
    assert_type(infer(engine, (array, array)), list[npt.NDArray[np.uint8]])
    assert_type(infer(engine, sorted(Path("horses").glob("*.jpg"))), list[Image.Image])
    assert_type(infer(engine, ["a.jpg", "b.jpg"]), list[Image.Image])
    sources: list[Image.Image | bytes] = [image, b"..."]
    assert_type(infer(engine, sources), list[Image.Image])
    mixed: list[Any] = [image, tensor]
    assert len(infer(engine, mixed)) == 2


def streams(engine: Engine, frames: Iterator[Tensor]) -> None:
    assert_type(infer(engine, frames), Iterator[Tensor])
    for image in infer(engine, (path for path in Path("horses").iterdir())):
        assert_type(image, Image.Image)


async def later(engine: Engine, array: npt.NDArray[np.uint8], upload: bytes) -> Image.Image:
    assert_type(infer_async(engine, array), Future[npt.NDArray[np.uint8]])
    assert_type(infer_async(engine, ["a.jpg"]), Future[list[Image.Image]])
    return await asyncio.wrap_future(infer_async(engine, upload))


def facts(engine: Engine) -> str:
    with engine.warmup((1, 256, 256)):
        return f"{engine.name} {engine.device} {engine.precision} {engine.threads} {cyclegan_fast.__version__}"


def wrong(engine: Engine) -> None:
    infer(engine, 7)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    cyclegan_fast.load_engine("a", backend="cntk")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def build() -> Path:
    return cyclegan_fast.build_engine("runs/a", "a.onnx", precision="int8", images="testA")
