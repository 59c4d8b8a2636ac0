"""What building and running TensorRT plans have in common: the two flavours, their log, the choice of a profile."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any, Literal

from cyclegan_fast.engine.backends.external_runtime import first_line
from cyclegan_fast.engine.shapes import Shape, Shapes
from cyclegan_fast.errors import UserError

FlavourName = Literal["standard", "rtx"]


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """A library that builds and runs plans. Neither of the two reads the plans of the other."""

    name: FlavourName
    title: str
    package: str
    """What Python imports; the sidecar's key of the version that built the plan."""
    install: str
    """The command that installs it."""
    min_version: tuple[int, int]


STANDARD = Flavour(
    name="standard",
    title="TensorRT",
    package="tensorrt",
    install="pip install 'cyclegan-fast[tensorrt]'",
    min_version=(10, 16),
)
"""Tries its kernels on the GPU while it builds, for that model of GPU."""
RTX = Flavour(
    name="rtx",
    title="TensorRT for RTX",
    package="tensorrt_rtx",
    install="pip install 'cyclegan-fast[tensorrt-rtx]'",
    min_version=(1, 7),
)
"""Builds for named compute capabilities without a GPU; the kernels are compiled on the GPU that runs the plan."""
FLAVOURS: dict[str, Flavour] = {flavour.name: flavour for flavour in (STANDARD, RTX)}


def profile_of(batch: Shape, profiles: list[Shapes]) -> int:
    """The index of the profile that serves a batch of (images, height, width)."""
    for i, (smallest, _, largest) in enumerate(profiles):
        if all(a <= side <= b for a, side, b in zip(smallest, batch, largest, strict=True)):
            return i
    raise ValueError(f"no profile of {profiles} serves {batch}")


def import_tensorrt(flavour: Flavour = STANDARD) -> Any:
    """The package of a flavour.

    Raises:
        UserError: It is missing, or too old.
    """
    oldest = ".".join(map(str, flavour.min_version))
    try:
        trt = importlib.import_module(flavour.package)
    except (ImportError, OSError) as error:  # OSError: the bindings are there, but not the libraries
        raise UserError(
            f"this .engine file needs {flavour.title} {oldest} or newer ({first_line(error)}): {flavour.install}"
        ) from error
    if tuple(int(part) for part in re.findall(r"\d+", trt.__version__)[:2]) < flavour.min_version:
        raise UserError(f"{flavour.title} {trt.__version__} is too old: {flavour.install}")
    return trt


def make_log(trt: Any) -> Any:
    """A logger that remembers TensorRT's last error and its report on the layers, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        last = "it gave no reason"
        layers = ""  # the compiled layers, as the builder of TensorRT for RTX logs them

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last = " ".join(message.split())
            elif message.startswith("Layers:"):
                self.layers = message

    return Log()
