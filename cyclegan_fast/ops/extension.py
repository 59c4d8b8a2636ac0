"""Loads the compiled extension once, and decides whether a call runs on it or on the plain-torch reference."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch  # the extension links against torch's libraries, which this import loads

from cyclegan_fast.errors import UserError
from cyclegan_fast.logs import warn_once

log = logging.getLogger(__name__)


def _load() -> tuple[ModuleType | None, str | None]:
    """Imports the extension, which registers its operators with torch. Returns (module, why it is missing)."""
    try:
        from cyclegan_fast import _C  # type: ignore[attr-defined]
    except ImportError as error:
        reason = f"cyclegan_fast._C did not load ({error})"
        if os.environ.get("CYCLEGAN_FAST_REQUIRE_EXT") == "1":
            raise UserError(
                f"{reason}, and CYCLEGAN_FAST_REQUIRE_EXT=1 forbids the plain-torch reference: "
                "build it with `pip install -e .` where g++ is installed."
            ) from error
        log.warning("%s: the slower plain-torch reference takes over", reason)
        return None, reason
    return _C, None


_module, _reason = _load()


class _Switch(threading.local):
    """Per thread, so that a thread that exports a network does not slow another one that trains."""

    reference_depth = 0


_switch = _Switch()


@contextlib.contextmanager
def use_reference() -> Iterator[None]:
    """Runs every operator called inside (on this thread) as plain torch.

    The reference is differentiable any number of times and exports to ONNX as Pad and InstanceNormalization.
    """
    _switch.reference_depth += 1
    try:
        yield
    finally:
        _switch.reference_depth -= 1


def runs_reference(x: torch.Tensor) -> bool:
    """True where an operator on `x` must run as plain torch."""
    if _module is None or _switch.reference_depth > 0:
        return True
    if x.is_cuda and not _has_cuda:
        _report_no_cuda()
        return True
    return False


def _report_no_cuda() -> None:
    """Once: slower code never takes over silently."""
    reason = "the extension was built without its CUDA kernels"
    fix = "install where an nvcc is, as `python -m cyclegan_fast.doctor` explains"
    if os.environ.get("CYCLEGAN_FAST_REQUIRE_EXT") == "1":
        raise UserError(f"{reason}, and CYCLEGAN_FAST_REQUIRE_EXT=1 forbids the plain-torch reference: {fix}")
    warn_once(log, f"{reason}: on CUDA the slower plain-torch reference takes over; {fix}")


def extension_available() -> bool:
    """True where the compiled extension is loaded."""
    return _module is not None


def extension_error() -> str | None:
    """Why the compiled extension is missing, in one clause; None where it is loaded."""
    return _reason


def compiled_function(name: str) -> Callable[..., Any] | None:
    """A function of the compiled extension that is no operator of torch; None where the extension is missing."""
    return None if _module is None else getattr(_module, name)


def build_info() -> dict[str, Any]:
    """Information about the loaded extension.

    Returns:
        ``version``, ``compiler``, ``cuda`` (toolkit version or None), ``cuda_archs`` (a list, empty without CUDA) and
        ``isa`` (what the CPU kernels run on: avx512_bf16, avx512, avx2 or plain). Empty where the extension is missing.
    """
    return {} if _module is None else dict(_module.build_info())


_has_cuda = bool(build_info().get("cuda_archs"))
