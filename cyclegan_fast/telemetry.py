"""Imports of libraries that would report to their makers that they were imported."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

_SENDERS = ("openvino_telemetry",)  # which OpenVINO does without where it is missing
# Of ONNX Runtime, which reads it when it is imported, and of Ray, which does so when it starts.
_SWITCHES = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def telemetry_disabled() -> Iterator[None]:
    """Keeps what is imported in this block from sending anything.

    OpenVINO reports each import to Google Analytics, ONNX Runtime its sessions to Microsoft, Ray its clusters to its
    makers. A library that the program
    has imported before is as it was, and an environment variable that is set stays what it is.
    """
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    hidden = [name for name in _SENDERS if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
