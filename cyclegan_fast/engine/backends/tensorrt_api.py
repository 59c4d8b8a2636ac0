"""What building and running TensorRT plans have in common: the package, its log, the choice of a profile."""

from __future__ import annotations

import re
from typing import Any

from cyclegan_fast.engine.backends.external_runtime import first_line
from cyclegan_fast.engine.shapes import Shape, Shapes
from cyclegan_fast.errors import UserError


def profile_of(batch: Shape, profiles: list[Shapes]) -> int:
    """The index of the profile that serves a batch of (images, height, width)."""
    for i, (smallest, _, largest) in enumerate(profiles):
        if all(a <= side <= b for a, side, b in zip(smallest, batch, largest, strict=True)):
            return i
    raise ValueError(f"no profile of {profiles} serves {batch}")


def import_tensorrt() -> Any:
    """The package.

    Raises:
        UserError: It is missing, or too old.
    """
    try:
        import tensorrt as trt
    except (ImportError, OSError) as error:  # OSError: the bindings are there, but not the libraries
        raise UserError(
            f"an .engine file needs TensorRT 10.16 or newer ({first_line(error)}): "
            "pip install 'cyclegan-fast[tensorrt]'"
        ) from error
    if tuple(int(part) for part in re.findall(r"\d+", trt.__version__)[:2]) < (10, 16):
        raise UserError(f"TensorRT {trt.__version__} is too old: pip install 'cyclegan-fast[tensorrt]'")
    return trt


def make_log(trt: Any) -> Any:
    """A logger that remembers TensorRT's last error, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        last = "it gave no reason"

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last = " ".join(message.split())

    return Log()
