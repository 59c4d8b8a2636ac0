"""How far an engine is from the generator that it was built from, and how far it may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclegan_fast.data.scenes import draw_scene, render_photo
from cyclegan_fast.engine.centred import centred
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.generator import Generator
from cyclegan_fast.engine.tiling.rows import mirror_to
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.model_io import read_input

_SIDE = 128  # of the images compared, in pixels, or the next that the network takes
_IMAGES = 4  # the last ones: int8 may be calibrated on the first
_MAX_SIDE = 256  # pixels of an image: what lies beyond is left out


@dataclass(frozen=True)
class Parity:
    """The distance of two networks over some images, both with values in [-1, 1]."""

    max: float
    """Of one value."""
    mean: float
    """Of all values, absolute."""
    psnr: float
    """Decibels, of the worst image, for values from -1 to 1; infinite of equal images."""

    def metadata(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {key: value if math.isfinite(value) else None for key, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"max {self.max:.2g}, mean {self.mean:.2g}, PSNR {self.psnr:.1f} dB"


# How far a build may be from torch, by its precision. On a GPU fp32 may be TF32, with as many digits as fp16.
BOUNDS = {
    "fp32": Parity(max=1e-3, mean=1e-4, psnr=80.0),
    "fp16": Parity(max=0.25, mean=5e-3, psnr=46.0),
    "bf16": Parity(max=1.0, mean=2e-2, psnr=34.0),
    "int8": Parity(max=2.0, mean=0.1, psnr=22.0),
    "fp8": Parity(max=2.0, mean=0.1, psnr=22.0),
}


_TRY = {
    "fp32": "its weights may hold values that are far too large: look at its images (translate), or train again",
    "fp16": "use bf16, which holds larger numbers, or fp32",
    "bf16": "use fp16, which has more digits, or fp32",
    "int8": "calibrate on more varied images of its domain (32 of those given are used), or use fp16 or bf16",
    "fp8": "calibrate on more varied images of its domain (32 of those given are used), or use int8, fp16 or bf16",
}


def parity_images(engine: Engine, images: Sequence[Path] = ()) -> Iterator[Tensor]:
    """What a build is compared on: random values of two shapes, and images.

    Args:
        engine: Whose input they are, within the shapes that it serves.
        images: Of the domain that it translates; the last are used. Without any, rendered scenes stand in.

    Yields:
        float32 [N, in_channels, H, W] in [-1, 1]; torch's own stream of random numbers is left alone.
    """
    fresh = torch.Generator()
    fresh.seed()
    for shape in ((2, _SIDE, _SIDE), (1, _SIDE, _SIDE + engine.limits.size_divisor)):
        n, height, width = engine.limits.clamp(shape)
        yield torch.rand(n, engine.in_channels, height, width, generator=fresh) * 2 - 1
    n, *size = engine.limits.clamp((1, _SIDE, _SIDE))
    if not images:
        for seed in range(2):
            photo = torch.from_numpy(render_photo(draw_scene(seed, seed), max(size))).permute(2, 0, 1)  # [3, H, W]
            channels = [i % 3 for i in range(engine.in_channels)]
            yield (photo[channels, : size[0], : size[1]].float() / 127.5 - 1.0).repeat(n, 1, 1, 1)
        return
    yield from image_batches(engine, images[-_IMAGES:])


def flat_images(engine: Engine) -> Iterator[Tensor]:
    """Images with nothing in them, where a runtime's rounding shows: black, another constant one, and half of that.

    Yields:
        float32 [N, in_channels, H, W] in [-1, 1], as `parity_images` does.
    """
    fresh = torch.Generator()
    fresh.seed()
    n, height, width = engine.limits.clamp((1, _SIDE, _SIDE))
    values = torch.rand(n, engine.in_channels, height, width, generator=fresh) * 2 - 1
    constant = values[..., :1, :1].expand_as(values).contiguous()
    yield torch.full_like(values, -1.0)
    yield constant
    yield torch.where(torch.arange(width) < width // 2, constant, values)


def image_batches(engine: Engine, paths: Iterable[Path]) -> Iterator[Tensor]:
    """Images as the engine takes them, each in a batch of its own; of large ones their upper left corner."""
    for path in paths:
        values = read_input(path, engine.in_format, engine.out_format).values[:, :_MAX_SIDE, :_MAX_SIDE]
        n, height, width = engine.limits.clamp((1, values.shape[1], values.shape[2]))
        yield mirror_to(values[:, :height, :width], (height, width)).repeat(n, 1, 1, 1)


def measure_parity(
    run: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], images: Iterable[Tensor]
) -> Parity:
    """Compares two networks on images; a value that is not a number makes every distance NaN."""
    largest, total, count, worst = 0.0, 0.0, 0, math.inf
    for batch in images:
        with torch.inference_mode():
            output, expected = run(batch).cpu().double(), reference(batch).cpu().double()
        if output.shape != expected.shape:
            raise UserError(f"the engine makes images of {list(output.shape)}, torch of {list(expected.shape)}")
        error = (output - expected).abs()
        if not error.isfinite().all():
            return Parity(math.nan, math.nan, math.nan)
        largest, total, count = max(largest, error.max().item()), total + error.sum().item(), count + error.numel()
        for square in error.square().mean(dim=(1, 2, 3)).tolist():
            worst = min(worst, 10.0 * math.log10(4.0 / square) if square else math.inf)
    return Parity(largest, total / count, worst)


def check_parity(engine: Engine, generator: Generator, images: Sequence[Path] = ()) -> Parity:
    """Compares an engine with the generator that it was built from.

    Returns:
        Their distance over `parity_images`; over `flat_images` it is within the same bound.

    Raises:
        UserError: They are further apart than `BOUNDS` allows for that precision.
    """
    bound = BOUNDS["fp16" if engine.precision == "fp32" and engine.device.startswith("cuda") else engine.precision]
    flat = measure_parity(engine.run, centred(generator.network, generator.network), flat_images(engine))
    found = measure_parity(engine.run, generator.network, parity_images(engine, images))
    for what, distance in (("", found), (" on images that are constant or half so", flat)):
        if not (distance.max <= bound.max and distance.mean <= bound.mean and distance.psnr >= bound.psnr):
            raise UserError(
                f"the engine differs from torch by {distance}{what}; {engine.precision} is allowed {bound}: "
                f"{_TRY[engine.precision]}"
            )
    return found
