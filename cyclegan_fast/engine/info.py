"""What is known of an engine: the facts that its users and its file's metadata name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cyclegan_fast.config import PixelFormat
from cyclegan_fast.engine.shapes import ShapeLimits

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """The facts about an engine."""

    name: str
    """Where it came from, for messages."""
    device: str
    """Where it runs: cpu, cuda or cuda:<index>."""
    precision: Precision
    """What its convolutions compute in."""
    direction: str | None
    """AtoB or BtoA; None if unknown."""
    in_format: PixelFormat
    """Pixel format of the input images."""
    out_format: PixelFormat
    """Pixel format of the output images."""
    limits: ShapeLimits
    """Shapes of the batches that it takes."""
    threads: int | None = None
    """CPU threads that a call computes on; None on a GPU."""
